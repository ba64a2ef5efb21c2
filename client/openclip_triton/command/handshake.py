"""Checks whether TLS is the reason for a failed connection.

gRPC reports only the last address that it tried, which may be one with a closed port.
"""

import socket
import ssl
from pathlib import Path

TIMEOUT_S = 5.0


def problem(
    address: str, *, tls: bool, ca: Path | None = None, own: tuple[Path, Path] | None = None
) -> str | None:
    """Describe the TLS problem of a reachable service; None if TLS is not the cause.

    Args:
        address: host:port of the service.
        tls: Whether the client encrypts.
        ca: PEM file of the trusted authorities; None: the system's.
        own: PEM files of the client's certificate and its key.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return None
    try:
        connected = socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S)
    except (OSError, OverflowError, UnicodeError):
        return None
    with connected:
        try:
            return _secure(connected, host, ca, own) if tls else _plain(connected)
        except OSError:
            return None


def _plain(connected: socket.socket) -> str | None:
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    anybody.set_alpn_protocols(["h2"])
    with anybody.wrap_socket(connected):
        return (
            "the service speaks TLS; give --tls, or --tls-ca with the authority of its certificate"
        )


def _secure(
    connected: socket.socket, host: str, ca: Path | None, own: tuple[Path, Path] | None
) -> str | None:
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    context.set_alpn_protocols(["h2"])
    if own:
        context.load_cert_chain(*own)
    try:
        encrypted = context.wrap_socket(connected, server_hostname=host.strip("[]"))
    except ssl.SSLCertVerificationError as error:
        trust = "" if ca else "; give --tls-ca with the authority of its certificate"
        return f"its certificate is not trusted: {error.verify_message}{trust}"
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return "the service does not speak TLS; omit the TLS options"
        return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    with encrypted:
        if _goes_on(encrypted):
            return None
        hint = (
            "does it trust the certificate of --tls-cert?"
            if own
            else "does it require a certificate? give --tls-cert and --tls-key"
        )
        return f"the service ended the connection; {hint}"


def _goes_on(encrypted: ssl.SSLSocket) -> bool:
    """Whether the service sends first, as in HTTP/2: TLS 1.3 refuses a certificate only now."""
    try:
        return encrypted.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
