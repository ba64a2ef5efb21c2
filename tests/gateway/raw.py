"""HTTP by hand, over sockets."""

import contextlib
import socket

import httpx


def connect(api: httpx.Client) -> socket.socket:
    """A connection to a gateway's REST port."""
    return socket.create_connection((api.base_url.host, api.base_url.port or 80), timeout=60)


def received(raw: socket.socket) -> bytes:
    """All that comes before the other side hangs up."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := raw.recv(2**16):
            data += more
    return data
