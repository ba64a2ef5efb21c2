"""Quotas of API keys: items per minute, and concurrent requests."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.access.keys import Key
from gateway.errors import QuotaExceeded

_MINUTE_S = 60.0
_RETRY_CONCURRENT_S = 1.0  # the end of a key's requests is not known


@dataclass(slots=True)
class _Spent:
    """The items that one key has spent, and its requests in flight."""

    items: float = 0.0  # of a minute's, as of `at`; it drains steadily
    at: float = 0.0
    requests: int = 0


class Quotas:
    """Counts usage per key. Runs on the event loop, so it needs no lock.

    With several processes each holds its share of the limits, rounded up.
    """

    def __init__(self, share: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the number of processes that share the limits, and the clock, in seconds."""
        self._share = share
        self._clock = clock
        self._spent: dict[str, _Spent] = {}

    @contextmanager
    def running(self, key: Key) -> Iterator[None]:
        """Count one request of a key as in flight within a `with` block.

        Raises:
            QuotaExceeded: The key already has its maximum number of requests in flight.
        """
        spent = self._of(key)
        if key.concurrency is not None and spent.requests >= self._shared(key.concurrency):
            raise QuotaExceeded(
                f"key {key.name!r} already has {key.concurrency:,} requests in flight",
                retry_after_s=_RETRY_CONCURRENT_S,
            )
        spent.requests += 1
        try:
            yield
        finally:
            spent.requests -= 1

    def spend(self, key: Key, items: int) -> None:
        """Take items from a key's quota.

        After a pause a key has a full minute's items at once. A larger request is admitted when
        the full minute's items are available, and later requests wait correspondingly longer.

        Raises:
            QuotaExceeded: Too few items are left; `retry_after_s` says when there are enough.
        """
        if key.items_per_minute is None:
            return
        limit = self._shared(key.items_per_minute)
        spent, now = self._of(key), self._clock()
        left = max(0.0, spent.items - (now - spent.at) * limit / _MINUTE_S)
        over = left + min(items, limit) - limit
        if over > 0:
            raise QuotaExceeded(
                f"key {key.name!r} has used its {key.items_per_minute:,} items per minute",
                retry_after_s=over * _MINUTE_S / limit,
            )
        spent.items, spent.at = left + items, now

    def _of(self, key: Key) -> _Spent:
        return self._spent.setdefault(key.name, _Spent())

    def _shared(self, limit: int) -> int:
        return math.ceil(limit / self._share)
