"""The gRPC connection of `Client`."""

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import grpc

from openclip_api.v1 import clip_pb2 as pb
from openclip_api.v1.clip_pb2_grpc import ClipServiceStub
from openclip_triton.calls import Call
from openclip_triton.service import OPTIONS, Attempts, Service
from openclip_triton.streams import stream

R = TypeVar("R")


class Channel:
    """A connection to the service, opened on first use."""

    def __init__(self, service: Service) -> None:
        self._service = service
        if service.credentials is not None:
            self._channel: Any = grpc.secure_channel(service.address, service.credentials, OPTIONS)
        else:
            self._channel = grpc.insecure_channel(service.address, OPTIONS)
        self._stub: Any = ClipServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
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
                answer = method(
                    call.request, timeout=attempts.timeout(), metadata=self._service.metadata
                )
                return call.read(answer)
            except grpc.RpcError as raised:
                wait_s = attempts.wait(raised)
            time.sleep(wait_s)
