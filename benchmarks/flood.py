"""More than a service can take: an open loop that tells what was accepted from what was refused."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.arrivals import due_times
from benchmarks.connection import Connection, RequestFailed, Target, connect
from benchmarks.traffic import Request

MOST_CONNECTIONS = 1_024  # what is due while all are busy is not sent, which is counted

_STATUS = re.compile(r"HTTP (\d{3})|([A-Z_]+):")


@dataclass(slots=True)
class Flooded:
    """What became of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)  # HTTP statuses; gRPC's by name
    accepted: list[float] = field(default_factory=list)  # seconds each took
    refused: list[float] = field(default_factory=list)
    unsent: int = 0  # no connection was free
    elapsed: float = 0.0  # seconds

    def median_ms(self, seconds: Sequence[float]) -> float:
        """The median, in milliseconds; nan where there is none."""
        return float(np.median(seconds)) * 1_000 if seconds else float("nan")


async def flood(
    target: Target, sent: Sequence[Request], rate: float, seconds: float, seed: int = 0
) -> Flooded:
    """Sends requests (one after the other, then again from the first) when they are due."""
    flooded, free, busy = Flooded(), list[Connection](), set[asyncio.Task[None]]()

    async def send(request: Request) -> None:
        connection = free.pop() if free else connect(request.protocol, target)
        begun = time.perf_counter()
        try:
            await connection.send(request)
            flooded.accepted.append(time.perf_counter() - begun)
            flooded.statuses["200"] += 1
        except RequestFailed as error:
            flooded.refused.append(time.perf_counter() - begun)
            found = _STATUS.match(str(error))
            flooded.statuses[(found[1] or found[2]) if found else str(error)] += 1
        finally:
            free.append(connection)

    start = time.perf_counter()
    for number, due in enumerate(due_times(rate, seconds, seed)):
        delay = start + due - time.perf_counter()
        # Even a client that is late lets its answers in.
        await asyncio.sleep(max(0.0, delay))
        if len(busy) >= MOST_CONNECTIONS:
            flooded.unsent += 1
            continue
        task = asyncio.create_task(send(sent[number % len(sent)]))
        busy.add(task)
        task.add_done_callback(busy.discard)
    await asyncio.gather(*busy)
    flooded.elapsed = time.perf_counter() - start
    await asyncio.gather(*(connection.close() for connection in free))
    return flooded
