"""The TLS certificate of both protocols: its expiry, and its reload when its files change."""

import asyncio
import base64
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from gateway.models.files import CHECK_S, read_file, version

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]+)-----END")
_VERSION, _UTC_TIME = 0xA0, 0x17  # tags


def expiry(chain: bytes) -> float:
    """Expiry of the first certificate, in Unix seconds; ValueError or IndexError if malformed."""
    found = _PEM.search(chain)
    if found is None:
        raise ValueError("no certificate in PEM")
    (_, certificate), *_ = _elements(base64.b64decode(found[1]))
    (_, signed), *_ = _elements(certificate)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    _, (tag, ending) = _elements(fields[3])  # after serial number, algorithm and issuer
    written = ending.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280: two-digit years are 1950 to 2049
        written = ("20" if written < "5" else "19") + written
    return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents of consecutive DER elements."""
    while der:
        tag, length, begin = der[0], der[1], 2
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(der[2:begin])
        yield tag, der[begin : begin + length]
        der = der[begin + length :]


logger = logging.getLogger(__name__)


class TlsError(Exception):
    """A certificate is unusable; the message names the setting, and quotes no file content."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its matching key, and the authorities of accepted client certificates."""

    chain: bytes  # PEM; the service's own first
    key: bytes = field(repr=False)  # PEM, not encrypted
    client_ca: bytes | None  # PEM; clients need a certificate that one of these signed
    expires: float = field(compare=False)  # Unix seconds
    context: ssl.SSLContext = field(compare=False, repr=False)  # uses all of the above


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a certificate."""

    chain: Path
    key: Path
    client_ca: Path | None

    def paths(self) -> list[Path]:
        """Paths of all configured files."""
        return [path for path in (self.chain, self.key, self.client_ca) if path]

    def read(self) -> Certificate:
        """Read the certificate from these files.

        Raises:
            TlsError: One is missing, cannot be read, or does not fit the others.
        """
        chain = _read(self.chain, "GATEWAY_TLS_CERT")
        key = _read(self.key, "GATEWAY_TLS_KEY")
        client_ca = _read(self.client_ca, "GATEWAY_TLS_CLIENT_CA") if self.client_ca else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with _file(chain) as chain_file, _file(key) as key_file:
            try:
                context.load_cert_chain(chain_file, key_file, password=_encrypted)
            # Not SSLError alone: CPython raises a bare OSError where errno happens to be set.
            except OSError as error:
                reason = getattr(error, "reason", None) or "they are not"
                raise TlsError(
                    f"GATEWAY_TLS_CERT {self.chain} and GATEWAY_TLS_KEY {self.key} must be a "
                    f"certificate and its key, both PEM: {reason}"
                ) from error
        if client_ca is not None:
            self._trust(context, client_ca)
        try:
            return Certificate(chain, key, client_ca, expiry(chain), context)
        except (ValueError, IndexError) as error:
            raise TlsError(f"GATEWAY_TLS_CERT: {self.chain} has no expiry") from error

    def _trust(self, context: ssl.SSLContext, client_ca: bytes) -> None:
        with _file(client_ca) as file:
            try:
                context.load_verify_locations(file)
            except OSError as error:  # as above
                raise TlsError(
                    f"GATEWAY_TLS_CLIENT_CA: {self.client_ca} holds no certificate in PEM"
                ) from error
        context.verify_mode = ssl.CERT_REQUIRED


class Tls:
    """The certificate currently served."""

    def __init__(self, files: TlsFiles) -> None:
        """Read it. Raises TlsError: see `TlsFiles.read`."""
        self._files = files
        self._version = self._seen = version(files.paths())
        self._problem = ""
        self.certificate = files.read()
        self.context = _Current(ssl.PROTOCOL_TLS_SERVER)  # for a server to keep
        self.context.current = self.certificate.context

    async def follow(self, expires: Callable[[float], None]) -> NoReturn:
        """Reload the files whenever they change; if one is broken, keep the current certificate.

        Open connections keep the certificate that they began with. `expires` is called with the
        expiry of each new certificate, in Unix seconds.
        """
        while True:
            await asyncio.sleep(CHECK_S)
            renewed = await asyncio.to_thread(self._read_if_changed)
            if renewed is None:
                continue
            self.certificate = renewed
            self.context.current = renewed.context
            expires(renewed.expires)
            until = datetime.fromtimestamp(renewed.expires, UTC).isoformat()
            logger.info("%s: the certificate was renewed, until %s", self._files.chain, until)

    def _read_if_changed(self) -> Certificate | None:
        now, before = version(self._files.paths()), self._seen
        self._seen = now
        # The files may be in the middle of being replaced one by one: wait a moment.
        if now == self._version or now != before:
            return None
        try:
            read = self._files.read()
        except TlsError as error:
            if str(error) != self._problem:
                logger.error("%s; the previous certificate is still served", error)
            self._problem = str(error)
            return None
        self._version, self._problem = now, ""
        return None if read == self.certificate else read


class _Current(ssl.SSLContext):
    """A TLS context that gives each new connection the current certificate.

    A context is replaced, not changed: OpenSSL can load a new certificate into it, but cannot
    remove an authority, and would resume sessions that a client began under the old one.
    """

    current: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Called by the event loop for every connection."""
        return self.current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def read_tls(chain: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    """Read the certificate from these files; None, for plain text, if none are named.

    Raises:
        TlsError: A required file is not named, or one is invalid: see `TlsFiles.read`.
    """
    if chain is not None and key is not None:
        return Tls(TlsFiles(chain, key, client_ca))
    for name, other, given in (
        ("GATEWAY_TLS_KEY", "GATEWAY_TLS_CERT", key),
        ("GATEWAY_TLS_CERT", "GATEWAY_TLS_KEY", chain),
        ("GATEWAY_TLS_CLIENT_CA", "GATEWAY_TLS_CERT and GATEWAY_TLS_KEY", client_ca),
    ):
        if given is not None:
            raise TlsError(f"{name} is set, so {other} must be as well")
    return None


def _read(path: Path, setting: str) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise TlsError(f"{setting}: {path} cannot be read: {error.strerror}") from error


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A file in memory: `ssl` accepts no bytes, and the original files may have changed."""
    try:
        descriptor = os.memfd_create("certificate")
    except OSError as error:
        raise TlsError(f"no file can be opened: {error.strerror}") from error
    try:
        path = f"/proc/self/fd/{descriptor}"
        Path(path).write_bytes(content)
        yield path
    finally:
        os.close(descriptor)


def _encrypted() -> NoReturn:
    raise TlsError("GATEWAY_TLS_KEY: the key is encrypted; give it as plain PEM")
