"""More load than a service can take: an open loop that counts accepted and refused requests."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.traffic.arrivals import due_times
from benchmarks.traffic.connection import Pool, RequestFailed, Target
from benchmarks.traffic.requests import GRPC, Request

MOST_CONNECTIONS = 1_024  # a request that is due while all are busy counts as unsent
ACCEPTED = {"200", "OK"}
REFUSED = {"429", "RESOURCE_EXHAUSTED"}


@dataclass(slots=True)
class Flooded:
    """What became of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)  # HTTP's; gRPC's by name
    accepted: list[float] = field(default_factory=list)  # seconds each took
    refused: list[float] = field(default_factory=list)
    unsent: int = 0  # requests that found no free connection
    elapsed: float = 0.0  # seconds, until the last answer
    client_seconds: float = 0.0  # of CPU that the client itself has used

    def add(self, status: str, seconds: float) -> None:
        """Counts an answer."""
        self.statuses[status] += 1
        if status in ACCEPTED:
            self.accepted.append(seconds)
        elif status in REFUSED:
            self.refused.append(seconds)

    def others(self) -> dict[str, int]:
        """How often there was another status than those of an overloaded service."""
        return {k: n for k, n in sorted(self.statuses.items()) if k not in ACCEPTED | REFUSED}

    def percentile_ms(self, seconds: Sequence[float], percent: float = 50) -> float:
        """In milliseconds; nan where there is none."""
        return float(np.percentile(seconds, percent)) * 1_000 if seconds else float("nan")


async def flood(
    target: Target, sent: Sequence[Request], rate: float, seconds: float, seed: int = 0
) -> Flooded:
    """Sends requests (one after the other, then again from the first) when they are due.

    Returns when the last of them is answered.
    """
    flooded, pool = Flooded(), Pool(target)
    under_way = 0

    async def send(request: Request, begun: float) -> None:
        nonlocal under_way
        try:
            await pool.send(request)
            status = "OK" if request.protocol == GRPC else "200"
        except RequestFailed as error:
            status = error.status
        flooded.add(status, time.perf_counter() - begun)
        under_way -= 1

    start, used = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for number, due in enumerate(due_times(rate, seconds, seed)):
            # Even a client that is late lets its answers in.
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
            if under_way >= MOST_CONNECTIONS:
                flooded.unsent += 1
                continue
            under_way += 1
            group.create_task(send(sent[number % len(sent)], time.perf_counter()))
    flooded.elapsed = time.perf_counter() - start
    flooded.client_seconds = time.process_time() - used
    await pool.close()
    return flooded
