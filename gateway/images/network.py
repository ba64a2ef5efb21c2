"""Connections to checked addresses, whose answers begin with a bounded head."""

import ssl
from collections.abc import Iterable, Sequence

import httpcore2

from gateway.images.addresses import Address

_HEAD_BYTES, _HEAD_PIECE = 2**15, 2**12  # of all heads of an answer, and of what is parsed at once


class Head:
    """Bounds the heads of an answer: any number of interim ones (1xx) may come before the last."""

    def __init__(self) -> None:
        self._left: int | None = _HEAD_BYTES  # None: the last one is there

    async def trace(self, event: str, _: object) -> None:
        """See httpcore's extension `trace`."""
        if event == "http11.receive_response_headers.complete":
            self._left = None

    async def read(self, stream: httpcore2.AsyncNetworkStream, size: int) -> bytes:
        """Read from a stream. Raises RemoteProtocolError: the heads are too long."""
        if self._left is None:
            return await stream.read(size)
        data = await stream.read(min(size, _HEAD_PIECE))
        self._left -= len(data)
        if self._left < 0:
            raise httpcore2.RemoteProtocolError("the heads of the answer are too long")
        return data


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection whose answer begins with a bounded head."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, head: Head) -> None:
        self._stream = stream
        self._head = head

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature, as below
        """See `httpcore2.AsyncNetworkStream`."""
        return await self._head.read(self._stream, max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """See `httpcore2.AsyncNetworkStream`."""
        await self._stream.write(buffer)

    async def aclose(self) -> None:
        """See `httpcore2.AsyncNetworkStream`."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        """See `httpcore2.AsyncNetworkStream`."""
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname), self._head)

    def get_extra_info(self, info: str) -> object:
        """See `httpcore2.AsyncNetworkStream`."""
        return self._stream.get_extra_info(info)


class Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to the first of these addresses that answers; ignores the host's name."""

    def __init__(
        self, addresses: Sequence[Address], network: httpcore2.AsyncNetworkBackend, head: Head
    ) -> None:
        self._addresses = addresses
        self._network = network
        self._head = head

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """See `httpcore2.AsyncNetworkBackend`."""
        return _Stream(await self._connected(port), self._head)

    async def _connected(self, port: int) -> httpcore2.AsyncNetworkStream:
        for address in self._addresses[:-1]:
            try:
                return await self._network.connect_tcp(str(address), port)
            except httpcore2.ConnectError:
                continue
        return await self._network.connect_tcp(str(self._addresses[-1]), port)
