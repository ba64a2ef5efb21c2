"""Lightweight client connections to a service, over REST and gRPC."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import grpc

from benchmarks.traffic.requests import GRPC, Request, vectors

UNLIMITED = -1
OPTIONS = (
    ("grpc.max_receive_message_length", UNLIMITED),
    ("grpc.max_send_message_length", UNLIMITED),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels would share one connection
)
LOST = "connection lost"  # the status of a request without an answer


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses of a service, each as host:port, and the model to request."""

    http: str
    grpc: str
    model: str


class RequestFailed(Exception):
    """The service answered with an error, or did not answer."""

    def __init__(self, message: str, status: str = LOST) -> None:
        """`status` is HTTP's code or gRPC's name of it."""
        super().__init__(message)
        self.status = status


class HttpConnection:
    """A kept-alive HTTP/1.1 connection; opened with the first request, and again once lost."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: Request) -> bytes:
        """Send a request, and return the body of the answer.

        Raises:
            RequestFailed: There was no answer, or it is an error.
        """
        head = (
            f"POST {request.path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: {request.content_type}\r\ncontent-length: {len(request.body)}\r\n\r\n"
        )
        try:
            if self._streams is None or self._streams[0].at_eof():
                await self.close()
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            writer.writelines((head.encode(), request.body))
            answer = await reader.readuntil(b"\r\n\r\n")
            status, length = _parse(answer)
            body = await reader.readexactly(length)
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
            await self.close()
            raise RequestFailed(f"the connection failed: {error}") from error
        except asyncio.CancelledError:
            await self.close()
            raise
        if status != 200:
            message = f"HTTP {status}: {body[:200].decode(errors='replace')}"
            raise RequestFailed(message, str(status))
        return body

    async def close(self) -> None:
        """Close it."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


class GrpcConnection:
    """A gRPC channel with its own TCP connection."""

    def __init__(self, address: str) -> None:
        self._channel: Any = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._calls: dict[str, Any] = {}

    async def send(self, request: Request) -> bytes:
        """See `HttpConnection.send`."""
        if request.path not in self._calls:
            self._calls[request.path] = self._channel.unary_unary(request.path)
        try:
            answer: bytes = await self._calls[request.path](request.body)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
            raise RequestFailed(f"{status}: {error.details()}", status) from error
        if vectors(answer) != request.items:
            raise RequestFailed("the answer lacks vectors", "incomplete")
        return answer

    async def close(self) -> None:
        """Close it."""
        await self._channel.close()


Connection = HttpConnection | GrpcConnection  # each for one request at a time


class Pool:
    """A pool of idle connections; it opens a new one when none is idle."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: defaultdict[str, list[Connection]] = defaultdict(list)

    async def send(self, request: Request) -> bytes:
        """See `HttpConnection.send`."""
        idle = self._idle[request.protocol]
        connection = idle.pop() if idle else connect(request.protocol, self._target)
        try:
            return await connection.send(request)
        finally:
            idle.append(connection)

    async def close(self) -> None:
        """Close every connection; none may be in use."""
        for connection in (each for idle in self._idle.values() for each in idle):
            await connection.close()


def connect(protocol: str, target: Target) -> Connection:
    """A connection for requests of this protocol."""
    return GrpcConnection(target.grpc) if protocol == GRPC else HttpConnection(target.http)


def _parse(head: bytes) -> tuple[int, int]:
    """Status and length of the body, from the head of an HTTP answer."""
    lines = head.split(b"\r\n")
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(lines[0].split()[1]), int(value)
    raise ValueError("the answer has no content-length")
