"""HTTP/1.1 for a client that must cost little: one write and next to no parsing for each request.

Nothing is awaited and no task is made: of the answer only the status is looked at.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from benchmarks.traffic.requests import Request

LOST = "connection lost"  # stands for the status where there is no answer

Told = Callable[[str], None]  # of the status of an answer


class RawHttp:
    """Connections to one address, each with one request at a time; more are opened as needed."""

    def __init__(self, address: str) -> None:
        """Takes host:port; must be used inside a running event loop."""
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._free: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._heads: dict[tuple[str, str, int], bytes] = {}

    def send(self, request: Request, told: Told) -> None:
        """Sends a request at once; `told` is called with the status of the answer, or `LOST`."""
        if self._free:
            self._free.pop().ask(self._head(request), request.body, told)
            return
        task = asyncio.create_task(self._open(request, told))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def close(self) -> None:
        """Closes the connections, of which none must be in use."""
        while self._free:
            self._free.pop().close()

    async def _open(self, request: Request, told: Told) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self._free), self._host, self._port
            )
        except OSError:
            told(LOST)
            return
        connection.ask(self._head(request), request.body, told)

    def _head(self, request: Request) -> bytes:
        key = request.path, request.content_type, len(request.body)
        if key not in self._heads:
            self._heads[key] = (
                f"POST {request.path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
                f"content-type: {request.content_type}\r\n"
                f"content-length: {len(request.body)}\r\n\r\n"
            ).encode()
        return self._heads[key]


class _Connection(asyncio.Protocol):
    def __init__(self, free: list["_Connection"]) -> None:
        self._free = free
        self._told: Told | None = None
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, head: bytes, body: bytes, told: Told) -> None:
        self._told = told
        self._transport.writelines((head, body))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if (status := _status(self._answer)) and (told := self._told):
            self._told, self._answer = None, b""
            self._free.append(self)
            told(status)

    def connection_lost(self, error: Exception | None) -> None:
        if told := self._told:
            self._told = None
            told(LOST)
        elif self in self._free:
            self._free.remove(self)

    def close(self) -> None:
        self._transport.close()


def _status(answer: bytes) -> str:
    """Of an answer that is there to its end; else empty."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return ""
    at = answer[:end].lower().find(b"content-length:") + len(b"content-length:")
    length = int(answer[at:end].split(b"\r\n", 1)[0])
    return answer[9:12].decode() if len(answer) >= end + 4 + length else ""
