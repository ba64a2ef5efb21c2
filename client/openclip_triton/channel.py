"""The gRPC connection, and the one way in which calls that have one answer are made."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from gateway.rpc.openclip.v1 import clip_pb2 as pb
from gateway.rpc.openclip.v1.clip_pb2_grpc import ClipServiceStub
from openclip_triton import convert
from openclip_triton.errors import of_call
from openclip_triton.stream import Call
from openclip_triton.values import StreamSettings

RETRIES = 3
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

R = TypeVar("R")


class Channel:
    """A connection to the service, opened when it is first used."""

    def __init__(
        self, address: str, *, timeout: float, token: str | None, tls: bool, ca: Path | None
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        if tls or ca:
            credentials = grpc.ssl_channel_credentials(convert.read(ca) if ca else None)
            self._channel: Any = grpc.secure_channel(address, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        self.stub: Any = ClipServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def open_stream(self, requests: Iterator[pb.EmbedStreamRequest]) -> Call:
        """Opens an EmbedStream."""
        call: Call = self.stub.EmbedStream(requests, metadata=self._metadata)
        return call

    def unary(self, method: Callable[..., R], request: Message) -> R:
        """Calls a method, again where that may help, within the time that a call may take.

        Raises:
            ClientError: The call failed.
        """
        until = time.monotonic() + self._timeout
        backoff = StreamSettings()
        attempt = 0
        while True:
            attempt += 1
            try:
                left = max(0.001, until - time.monotonic())
                return method(request, timeout=left, metadata=self._metadata)
            except grpc.RpcError as raised:
                error = of_call(raised, self._address)
            delay = backoff.backoff(attempt)
            late = time.monotonic() + delay >= until
            if late or not error.retryable or attempt > RETRIES:
                raise error
            time.sleep(delay)
