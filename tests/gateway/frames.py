"""HTTP/2 by hand: calls that do what no client of gRPC would."""

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW = 4  # of the settings
_WINDOW = 65_535
_FRAME = 16_384


class Connection:
    """One to a gRPC server, which opens no window: answers of more than 64 KiB get stuck."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0))
        self._received = b""
        self._initial = _WINDOW
        self._window = _WINDOW
        self._windows: dict[int, int] = {}
        self._next = 1
        self.over: set[int] = set()  # streams that the server has ended
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, path: str, metadata: Mapping[str, str] | None = None) -> int:
        """Begin a call; return its stream."""
        stream, self._next = self._next, self._next + 2
        headers = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "here",
            "te": "trailers", "content-type": "application/grpc",
        } | dict(metadata or {})  # fmt: skip
        block = b"".join(
            b"\0" + _string(name) + _string(value) for name, value in headers.items()
        )  # literal, and not to be kept
        self._windows[stream] = self._initial
        self._send(_frame(_HEADERS, _END_HEADERS, stream, block))
        return stream

    def send(
        self, stream: int, message: bytes, size: int | None = None, *, compressed: bool = False
    ) -> int:
        """Send a message of `size` bytes, as far as `message` and the windows go.

        Returns the number of bytes that went.
        """
        size = len(message) if size is None else size
        body = struct.pack(">BI", compressed, size) + message
        sent = 0
        while sent < len(body) and stream not in self.over and not self.closed:
            room = min(self._window, self._windows[stream], _FRAME, len(body) - sent)
            if room > 0:
                self._send(_frame(_DATA, 0, stream, body[sent : sent + room]))
                self._window -= room
                self._windows[stream] -= room
                sent += room
            if not self.heed(0 if room > 0 else 0.3) and room <= 0:
                break
        return sent

    def heed(self, within_s: float = 0.0) -> bool:
        """Take in what the server sent; whether there was anything."""
        if self.closed or not select.select([self._socket], [], [], within_s)[0]:
            return False
        try:
            came = self._socket.recv(2**20)
        except ConnectionError:
            came = b""
        self.closed |= not came
        self._received += came
        for kind, flags, stream, payload in self._frames():
            if kind == _SETTINGS and not flags & _ACK:
                for name, value in struct.iter_unpack(">HI", payload):
                    if name == _INITIAL_WINDOW:
                        for each in self._windows:
                            self._windows[each] += value - self._initial
                        self._initial = value
                self._send(_frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                self._send(_frame(_PING, _ACK, 0, payload))
            elif kind == _WINDOW_UPDATE and stream:
                self._windows[stream] += int.from_bytes(payload, "big")
            elif kind == _WINDOW_UPDATE:
                self._window += int.from_bytes(payload, "big")
            elif kind == _RST_STREAM or (kind == _HEADERS and flags & _END_STREAM):
                self.over.add(stream)
            self.closed |= kind == _GOAWAY
        return True

    def settle(self, seconds: float) -> None:
        """Heeds the server for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.heed(left)
            if self.closed:
                return

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._received) >= 9:
            end = 9 + int.from_bytes(self._received[:3], "big")
            if len(self._received) < end:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            payload, self._received = self._received[9:end], self._received[end:]
            yield kind, flags, stream, payload

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # which `heed` finds out
            self._socket.sendall(data)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _string(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode("latin-1")
