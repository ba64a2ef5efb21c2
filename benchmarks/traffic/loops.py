"""Closed loops: clients that each send the next request when the last is answered."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.traffic.connection import Connection, RequestFailed, Target, connect
from benchmarks.traffic.requests import Request

MIN_ANSWERS = 3  # minimum of answers per measured client, however slow the service
WARM_UP = 0.25  # of the measured time, before it
FAILED_PAUSE = 0.05  # seconds that a client waits after an error


@dataclass(slots=True)
class Client:
    """The observations of one client of a loop."""

    ends: list[float] = field(default_factory=list)  # seconds, of answers
    latencies: list[float] = field(default_factory=list)  # seconds
    items: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def rate(self) -> float:
        """Items per second between its first and its last answer."""
        if len(self.ends) < 2:
            return 0.0
        return sum(self.items[1:]) / (self.ends[-1] - self.ends[0])


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of a loop."""

    per_second: float  # items
    latencies: Sequence[float]  # seconds, of each request that was answered
    errors: Counter[str]  # by message

    def values(self) -> dict[str, float]:
        """The figures of a results row."""
        return {
            "per_second": self.per_second,
            **percentiles_ms(self.latencies),
            "requests": len(self.latencies),
            "errors": self.errors.total(),
        }


def percentiles_ms(latencies: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of latencies in seconds; NaN if nothing was answered."""
    at = np.percentile(latencies, [50, 95, 99]) * 1000 if latencies else [np.nan] * 3
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), map(float, at), strict=True))


def measure(
    target: Target, stream: Iterator[Request], concurrency: int, seconds: float,
    warm_up: float = WARM_UP,
) -> Measurement:  # fmt: skip
    """Run a closed loop of requests against a service.

    The throughput is the sum over the clients of each one's rate between its first and its last
    answer. Counting the answers in a time window would err by a whole batch at either end, which
    is a tenth of all answers with slow models.

    `warm_up` is the length of the uncounted start, as a fraction of `seconds`.
    """
    return asyncio.run(_drive(target, stream, concurrency, seconds, warm_up))


async def _drive(
    target: Target, stream: Iterator[Request], concurrency: int, seconds: float, warm_up: float
) -> Measurement:
    first = next(stream)
    stream = itertools.chain([first], stream)
    connections = [connect(first.protocol, target) for _ in range(concurrency)]
    begin = time.perf_counter() + seconds * warm_up
    clients = [Client() for _ in connections]
    pairs = zip(clients, connections, strict=True)
    try:
        await asyncio.gather(*(_run(*pair, stream, begin, begin + seconds) for pair in pairs))
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
    return Measurement(
        sum(client.rate() for client in clients),
        [latency for client in clients for latency in client.latencies],
        sum((client.errors for client in clients), Counter()),
    )


async def _run(
    client: Client, connection: Connection, stream: Iterator[Request], begin: float, end: float
) -> None:
    """Continues after the end until it has enough answers, unless a request failed."""
    while (start := time.perf_counter()) < end or (
        len(client.ends) < MIN_ANSWERS and not client.errors
    ):
        request = next(stream)
        try:
            await connection.send(request)
        except RequestFailed as error:
            client.errors[str(error)] += 1
            await asyncio.sleep(FAILED_PAUSE)
            continue
        now = time.perf_counter()
        if now >= begin:
            client.ends.append(now)
            client.latencies.append(now - start)
            client.items.append(request.items)
