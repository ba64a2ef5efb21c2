"""When a certificate ends, read from its DER, which neither `ssl` nor gRPC tells a server."""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]+)-----END")
_VERSION, _UTC_TIME = 0xA0, 0x17  # tags


def expiry(chain: bytes) -> float:
    """When the first certificate ends, in Unix seconds.

    Raises:
        ValueError: It is no certificate.
        IndexError: It ends too soon.
    """
    found = _PEM.search(chain)
    if found is None:
        raise ValueError("no certificate in PEM")
    (_, certificate), *_ = _elements(base64.b64decode(found[1]))
    (_, signed), *_ = _elements(certificate)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    _, (tag, ending) = _elements(fields[3])  # after serial number, algorithm and issuer
    written = ending.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280: years of two digits are 1950 to 2049
        written = ("20" if written < "5" else "19") + written
    return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents of DER elements that follow each other."""
    while der:
        tag, length, begin = der[0], der[1], 2
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(der[2:begin])
        yield tag, der[begin : begin + length]
        der = der[begin + length :]
