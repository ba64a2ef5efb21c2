"""The gRPC connection of a client."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from openclip_api.v1 import clip_pb2 as pb
from openclip_api.v1.clip_pb2_grpc import ClipServiceStub
from openclip_triton.calls import Call
from openclip_triton.service import OPTIONS, Attempts, Service
from openclip_triton.streams import stream

R = TypeVar("R")


class Channel:
    """A connection to the service, opened on first use; for any threads and event loops."""

    def __init__(self, service: Service) -> None:
        self._service = service
        if service.credentials is not None:
            self._channel: Any = grpc.secure_channel(service.address, service.credentials, OPTIONS)
        else:
            self._channel = grpc.insecure_channel(service.address, OPTIONS)
        self._stub: Any = ClipServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection; calls under way end as lost."""
        self._channel.close()

    def open_stream(self, requests: Iterator[pb.EmbedStreamRequest]) -> stream.Call:
        """Open an EmbedStream."""
        call: stream.Call = self._stub.EmbedStream(requests, metadata=self._service.metadata)
        return call

    def unary(self, call: Call[R]) -> R:
        """Call a method; where the service refuses it for a time, wait and call again.

        Raises:
            ClientError: The call failed.
        """
        method = getattr(self._stub, call.method)
        attempts = Attempts(self._service)
        while True:
            try:
                return call.read(method(call.request, **attempts.options()))
            except grpc.RpcError as raised:
                wait_s = attempts.wait(raised)
            time.sleep(wait_s)

    async def async_unary(self, call: Call[R]) -> R:
        """Do as `unary` does, in an event loop; to cancel it ends the call at the service as well.

        Raises:
            ClientError: The call failed.
        """
        method = getattr(self._stub, call.method)
        attempts = Attempts(self._service)
        while True:
            try:
                return call.read(await _answer(method.future(call.request, **attempts.options())))
            except grpc.RpcError as raised:
                wait_s = attempts.wait(raised)
            await asyncio.sleep(wait_s)


async def _answer(call: Any) -> Any:  # noqa: ANN401 - gRPC has no types
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end(_: object) -> None:
        with suppress(RuntimeError):  # the loop ended before the call
            loop.call_soon_threadsafe(ended.set)

    call.add_done_callback(end)
    try:
        await ended.wait()
    finally:
        call.cancel()
    return call.result()
