"""The gRPC connection of `AsyncClient`."""

import asyncio
from functools import cached_property
from typing import TypeVar

import grpc

from openclip_api.v1.clip_pb2_grpc import ClipServiceStub
from openclip_triton.calls import Call
from openclip_triton.service import OPTIONS, Attempts, Service
from openclip_triton.streams import async_stream

R = TypeVar("R")


class AsyncChannel:
    """A connection to the service, made by the first call and bound to that call's event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        address, credentials = self._service.address, self._service.credentials
        if credentials is not None:
            return grpc.aio.secure_channel(address, credentials, OPTIONS)
        return grpc.aio.insecure_channel(address, OPTIONS)

    @cached_property
    def _stub(self) -> ClipServiceStub:
        return ClipServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection; calls under way end as cancelled."""
        if "_channel" in vars(self):
            await self._channel.close()

    def open_stream(self) -> async_stream.Call:
        """Open an EmbedStream."""
        call: async_stream.Call = self._stub.EmbedStream(metadata=self._service.metadata)
        return call

    async def unary(self, call: Call[R]) -> R:
        """Call a method; where the service refuses it for a time, wait and call again.

        Raises:
            ClientError: The call failed.
        """
        method = getattr(self._stub, call.method)
        attempts = Attempts(self._service)
        while True:
            try:
                answer = await method(
                    call.request, timeout=attempts.timeout(), metadata=self._service.metadata
                )
                return call.read(answer)
            except grpc.RpcError as raised:
                wait_s = attempts.wait(raised)
            await asyncio.sleep(wait_s)
