"""How many bytes have come in on each connection, as the kernel counts them."""

import os
import socket
import struct
from collections.abc import Collection
from urllib.parse import quote

_RECEIVED = 128  # where tcpi_bytes_received stands in Linux's struct tcp_info, 8 bytes
_OPEN = "/proc/self/fd"
_MAPPED = "::ffff:"  # before an IPv4 address on a socket of IPv6


class Sockets:
    """Finds the sockets that gRPC holds, which gRPC does not expose."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # file descriptors, by the peer's name

    def received(self, peers: Collection[str]) -> dict[str, int]:
        """Bytes that have come from each of these peers, named as gRPC names them.

        Those that have left are not in the answer.
        """
        found = self._known(peers)
        if len(found) < len(peers):
            self._numbers = {
                seen[0]: number
                for number in (int(entry.name) for entry in os.scandir(_OPEN))
                if (seen := _seen(number))
            }
            found = self._known(peers)
        return found

    def _known(self, peers: Collection[str]) -> dict[str, int]:
        seen = [_seen(self._numbers[peer]) for peer in peers if peer in self._numbers]
        return dict(filter(None, seen))  # by now another's may have the number


def _seen(number: int) -> tuple[str, int] | None:
    """The peer of a socket, and how many bytes have come; None where it is no connection."""
    try:
        # Addresses of both families fit into one of IPv6.
        one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, fileno=number)
    except OSError:
        return None
    try:
        name = _named(one.getpeername())
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED + 8)
        return name, struct.unpack_from("=Q", info, _RECEIVED)[0]
    except (OSError, struct.error):
        return None
    finally:
        one.detach()  # it is gRPC's to close


def _named(address: object) -> str:
    if not isinstance(address, tuple):  # of a Unix socket
        return ""
    host, port = address[0].removeprefix(_MAPPED), address[1]
    return f"ipv6:%5B{quote(host, safe=':')}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
