"""Retries of a call within its time limit."""

import random
import time

import grpc

from openclip_triton.errors import ClientError, of_call

RETRIES = 3
JITTER = 0.25  # random part of a wait, so that refused clients do not retry together


class Attempts:
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
        error: ClientError = of_call(raised, self._address)
        self._left -= 1
        delay = error.retry_after_s * random.uniform(1, 1 + JITTER)
        if not error.retryable or not delay or self._left < 0 or delay >= self.timeout():
            raise error
        return delay
