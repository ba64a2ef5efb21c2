"""Connections to a service that cost the client as little as possible: REST and gRPC."""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from benchmarks.traffic import protowire
from benchmarks.traffic.requests import GRPC, Request

UNLIMITED = -1
OPTIONS = (
    ("grpc.max_receive_message_length", UNLIMITED),
    ("grpc.max_send_message_length", UNLIMITED),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels would share one connection
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service listens, each as host:port, and which of its models is meant."""

    http: str
    grpc: str
    model: str


class RequestFailed(Exception):
    """The service answered with an error, or not at all."""


class Connection(Protocol):
    """One request at a time."""

    async def send(self, request: Request) -> bytes:
        """Sends a request, and returns the body of the answer.

        Raises:
            RequestFailed: There was none, or it is an error.
        """
        ...

    async def close(self) -> None:
        """Closes it."""
        ...


class HttpConnection:
    """A kept-alive HTTP/1.1 connection; opened with the first request, and again once lost."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: Request) -> bytes:
        """See `Connection.send`."""
        head = (
            f"POST {request.path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: {request.content_type}\r\ncontent-length: {len(request.body)}\r\n\r\n"
        )
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            writer.write(head.encode() + request.body)
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
            raise RequestFailed(f"HTTP {status}: {body[:200].decode(errors='replace')}")
        return body

    async def close(self) -> None:
        """See `Connection.close`."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


class GrpcConnection:
    """A channel of its own, and so a TCP connection of its own."""

    def __init__(self, address: str) -> None:
        self._channel: Any = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._calls: dict[str, Any] = {}

    async def send(self, request: Request) -> bytes:
        """See `Connection.send`."""
        if request.path not in self._calls:
            self._calls[request.path] = self._channel.unary_unary(request.path)
        try:
            answer: bytes = await self._calls[request.path](request.body)
        except grpc.aio.AioRpcError as error:
            raise RequestFailed(f"{error.code().name}: {error.details()}") from error
        if protowire.vectors(answer) != request.items:
            raise RequestFailed("the answer holds fewer vectors than were asked for")
        return answer

    async def close(self) -> None:
        """See `Connection.close`."""
        await self._channel.close()


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
