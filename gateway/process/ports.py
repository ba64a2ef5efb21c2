"""Take the ports before anything starts, so that a port in use is reported at once."""

import errno
import socket


class PortError(Exception):
    """A port cannot be listened on; the message names the setting."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket for REST; several processes may accept from it.

    Raises:
        PortError: The address cannot be listened on.
    """
    listener = _bound(host, port, "GATEWAY_HTTP_PORT", "GATEWAY_HOST", backlog=2048)
    listener.setblocking(False)
    return listener


def reserve(
    host: str, port: int, setting: str = "GATEWAY_GRPC_PORT", host_setting: str = "GATEWAY_HOST"
) -> socket.socket:
    """Bind a port, without listening, so that worker processes can share it.

    Raises:
        PortError: The port is in use, or the address is not one of this machine.
    """
    # Bind once without SO_REUSEPORT: with it, another gateway on this machine would go unnoticed.
    with _bound(host, port, setting, host_setting) as free:
        port = free.getsockname()[1]
    return _bound(host, port, setting, host_setting, reuse=True)


def _bound(
    host: str, port: int, setting: str, host_setting: str, *, reuse: bool = False, backlog: int = 0
) -> socket.socket:
    """Bind a port; listen on it if there is a backlog."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
        if backlog:  # fails where another program has bound the port, too, and listens first
            bound.listen(backlog)
    except (OSError, UnicodeError) as error:
        bound.close()
        why = getattr(error, "strerror", None) or "it is no host name"
        known = isinstance(error, OSError) and error.errno in {errno.EADDRINUSE, errno.EACCES}
        raise PortError(
            f"cannot listen on {host}:{port}: {why}; set {setting if known else host_setting}"
        ) from error
    return bound
