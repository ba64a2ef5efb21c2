"""Where the service is, how its channel is set up, and when a call of it is tried again."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from openclip_triton import convert
from openclip_triton.errors import ClientError, of_call

RETRIES = 3
JITTER = 0.25  # of a wait, at most, so that those who were refused together do not return together
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class Service:
    """Address, credentials and patience of a client."""

    address: str  # host:port
    timeout: float  # seconds of one call, retries included
    metadata: Sequence[tuple[str, str]]  # of every call
    credentials: grpc.ChannelCredentials | None  # None: plain text


def service(
    address: str,
    timeout: float,
    api_key: str | None,
    tls: bool,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> Service:
    """Take the arguments of a client, and read the files of TLS.

    Raises:
        ValueError: Only one of `tls_cert` and `tls_key` is given.
        UnreadableFile: A file cannot be read.
    """
    if (tls_cert is None) != (tls_key is None):
        raise ValueError("give both tls_cert and tls_key")
    credentials = None
    if tls or tls_ca or tls_cert:
        ca, cert, key = (
            convert.read(path) if path else None for path in (tls_ca, tls_cert, tls_key)
        )
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
    metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
    return Service(address, timeout, metadata, credentials)


class Attempts:
    """The attempts of one call: how long each may take, and whether there is another."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._until = time.monotonic() + service.timeout
        self._left = RETRIES

    def options(self) -> dict[str, Any]:
        """Arguments of the next attempt: the time that is left, and the metadata."""
        return {"timeout": self._timeout(), "metadata": self._service.metadata}

    def _timeout(self) -> float:
        return max(0.001, self._until - time.monotonic())

    def wait(self, raised: grpc.RpcError) -> float:
        """Seconds to wait before another attempt, as long as the service said.

        Raises:
            ClientError: There is none: the service named no time, the error lasts, or the call's
                time would be over.
        """
        error: ClientError = of_call(raised, self._service.address)
        self._left -= 1
        delay = error.retry_after_s * random.uniform(1, 1 + JITTER)
        if not error.retryable or not delay or self._left < 0 or delay >= self._timeout():
            raise error
        return delay
