"""The gRPC connection of a client."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc

from openclip_api.v1 import clip_pb2 as pb
from openclip_api.v1.clip_pb2_grpc import ClipServiceStub
from openclip_triton import convert
from openclip_triton.calls import Call
from openclip_triton.errors import of_call
from openclip_triton.streams import stream

R = TypeVar("R")

RETRIES = 3
JITTER = 0.25  # random part of a wait, so that refused clients do not retry together
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Calls take turns over the reachable addresses of a target.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)


class Connected:
    """A client's connection, opened on first use; its calls run in any thread or event loop."""

    def __init__(
        self,
        address: str = "127.0.0.1:8081",
        *,
        timeout: float = 60.0,
        api_key: str | None = None,
        tls: bool = False,
        tls_ca: Path | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
    ) -> None:
        if (tls_cert is None) != (tls_key is None):
            raise ValueError("give both tls_cert and tls_key")
        self.address = address
        self._timeout = timeout
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        if tls or tls_ca or tls_cert:
            ca, cert, key = (
                convert.read(path) if path else None for path in (tls_ca, tls_cert, tls_key)
            )
            credentials = grpc.ssl_channel_credentials(ca, key, cert)
            self._channel: Any = grpc.secure_channel(address, credentials, OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, OPTIONS)
        self._stub: Any = ClipServiceStub(self._channel)

    def _open_stream(self, requests: Iterator[pb.EmbedStreamRequest]) -> stream.Call:
        call: stream.Call = self._stub.EmbedStream(requests, metadata=self._metadata)
        return call

    def _unary(self, call: Call[R]) -> R:
        """Call a method; if the service refuses it temporarily, wait and call again."""
        method = getattr(self._stub, call.method)
        attempts = _Attempts(self.address, self._timeout)
        while True:
            try:
                answer = method(call.request, timeout=attempts.timeout(), metadata=self._metadata)
                return call.read(answer)
            except grpc.RpcError as raised:
                wait_s = attempts.wait(raised)
            time.sleep(wait_s)

    async def _async_unary(self, call: Call[R]) -> R:
        """Do as `_unary` does, in an event loop; cancelling also ends the call at the service."""
        method = getattr(self._stub, call.method)
        attempts = _Attempts(self.address, self._timeout)
        while True:
            try:
                begun = method.future(
                    call.request, timeout=attempts.timeout(), metadata=self._metadata
                )
                return call.read(await _answer(begun))
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


class _Attempts:
    """The attempts of one call: the time limit of each, and the decision on another."""

    def __init__(self, address: str, timeout: float) -> None:
        self._address = address
        self._until = time.monotonic() + timeout
        self._left = RETRIES

    def timeout(self) -> float:
        """Seconds that the next attempt may take."""
        return max(0.001, self._until - time.monotonic())

    def wait(self, raised: grpc.RpcError) -> float:
        """Seconds to wait before another attempt, as the service requested.

        Raises:
            ClientError: No attempt is left: the service named no time, the error is permanent, or
            the call's time would be over.
        """
        error = of_call(raised, self._address)
        self._left -= 1
        delay = error.retry_after_s * random.uniform(1, 1 + JITTER)
        if not error.retryable or not delay or self._left < 0 or delay >= self.timeout():
            raise error
        return delay
