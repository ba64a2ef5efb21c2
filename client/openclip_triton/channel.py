"""The gRPC connection, and unary calls with retries."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from openclip_api.v1 import clip_pb2 as pb
from openclip_api.v1.clip_pb2_grpc import ClipServiceStub
from openclip_triton import convert
from openclip_triton.errors import of_call
from openclip_triton.streams.stream import Call
from openclip_triton.values import StreamSettings

RETRIES = 3
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Encryption:
    """TLS of a connection: trusted authorities and the client's certificate."""

    ca: Path | None  # PEM; None: the system's authorities
    own: tuple[Path, Path] | None  # the client's certificate and its key, PEM

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files into gRPC's credentials.

        Raises:
            UnreadableFile: A file cannot be read.
        """
        certificate, key = map(convert.read, self.own) if self.own else (None, None)
        return grpc.ssl_channel_credentials(
            convert.read(self.ca) if self.ca else None, key, certificate
        )


class Channel:
    """A connection to the service, opened on first use."""

    def __init__(
        self, address: str, timeout: float, api_key: str | None, encryption: Encryption | None
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        if encryption:
            credentials = encryption.credentials()
            self._channel: Any = grpc.secure_channel(address, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        self.stub: Any = ClipServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def open_stream(self, requests: Iterator[pb.EmbedStreamRequest]) -> Call:
        """Open an EmbedStream."""
        call: Call = self.stub.EmbedStream(requests, metadata=self._metadata)
        return call

    def unary(self, method: Callable[..., R], request: Message) -> R:
        """Call a method, retrying errors that may pass until the timeout.

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
                error = of_call(raised, self.address)
            delay = max(backoff.backoff(attempt), error.retry_after_s)
            late = time.monotonic() + delay >= until
            if late or not error.retryable or attempt > RETRIES:
                raise error
            time.sleep(delay)
