"""The certificate that both protocols are served with."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn


class TlsError(Exception):
    """A certificate cannot be served with; the message names the setting."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, and whose clients are let in."""

    chain: bytes  # PEM; the service's own first
    key: bytes = field(repr=False)  # PEM, not encrypted
    client_ca: bytes | None = None  # PEM; clients need a certificate that one of these signed


def read_certificate(
    chain: Path | None, key: Path | None, client_ca: Path | None
) -> Certificate | None:
    """The certificate in these files; None where none are named, which serves plain text.

    Raises:
        TlsError: One is missing, cannot be read, or does not fit the others.
    """
    if chain is None or key is None:
        for name, other, given in (
            ("GATEWAY_TLS_KEY", "GATEWAY_TLS_CERT", key),
            ("GATEWAY_TLS_CERT", "GATEWAY_TLS_KEY", chain),
            ("GATEWAY_TLS_CLIENT_CA", "GATEWAY_TLS_CERT and GATEWAY_TLS_KEY", client_ca),
        ):
            if given is not None:
                raise TlsError(f"{name} is set, so {other} must be as well")
        return None
    read = Certificate(
        _read(chain, "GATEWAY_TLS_CERT"),
        _read(key, "GATEWAY_TLS_KEY"),
        _read(client_ca, "GATEWAY_TLS_CLIENT_CA") if client_ca else None,
    )
    _check(chain, key, client_ca)
    return read


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{setting}: {path} cannot be read: {error.strerror}") from error


def _check(chain: Path, key: Path, client_ca: Path | None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(chain, key, password=_encrypted)
    except ssl.SSLError as error:
        raise TlsError(
            f"GATEWAY_TLS_CERT {chain} and GATEWAY_TLS_KEY {key} must be a certificate and its "
            f"key, both PEM: {error.reason or 'they are not'}"
        ) from error
    if client_ca is None:
        return
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise TlsError(f"GATEWAY_TLS_CLIENT_CA: {client_ca} holds no certificate in PEM") from error


def _encrypted() -> NoReturn:
    raise TlsError("GATEWAY_TLS_KEY: the key is encrypted; give it as plain PEM")
