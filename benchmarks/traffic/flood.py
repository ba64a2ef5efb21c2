"""More than a service can take: an open loop that tells what was accepted from what was refused."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.traffic.arrivals import due_times
from benchmarks.traffic.connection import GrpcConnection, RequestFailed, Target
from benchmarks.traffic.rawhttp import RawHttp
from benchmarks.traffic.requests import GRPC, Request

MOST_CONNECTIONS = 1_024  # what is due while all are busy is not sent, which is counted
ACCEPTED = {"200", "OK"}
REFUSED = {"429", "RESOURCE_EXHAUSTED"}

_STATUS = re.compile(r"([A-Z_]+):")

Told = Callable[[str], None]  # of the status of an answer


@dataclass(slots=True)
class Flooded:
    """What became of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)  # HTTP's; gRPC's by name
    accepted: list[float] = field(default_factory=list)  # seconds each took
    refused: list[float] = field(default_factory=list)
    unsent: int = 0  # no connection was free
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
    flooded, http, rpc = Flooded(), RawHttp(target.http), _Rpc(target.grpc)
    answered = asyncio.Event()
    under_way = 0

    def send(request: Request) -> None:
        begun = time.perf_counter()

        def told(status: str) -> None:
            nonlocal under_way
            flooded.add(status, time.perf_counter() - begun)
            under_way -= 1
            answered.set()

        (rpc if request.protocol == GRPC else http).send(request, told)

    start, used = time.perf_counter(), time.process_time()
    for number, due in enumerate(due_times(rate, seconds, seed)):
        # Even a client that is late lets its answers in.
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        if under_way >= MOST_CONNECTIONS:
            flooded.unsent += 1
            continue
        under_way += 1
        send(sent[number % len(sent)])
    while under_way:
        answered.clear()
        await answered.wait()
    flooded.elapsed = time.perf_counter() - start
    flooded.client_seconds = time.process_time() - used
    http.close()
    await rpc.close()
    return flooded


class _Rpc:
    """Calls over channels of which each has one call under way."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._free: list[GrpcConnection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, request: Request, told: Told) -> None:
        """Begins a call; `told` is called with the name of its status."""
        task = asyncio.create_task(self._call(request, told))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, request: Request, told: Told) -> None:
        connection = self._free.pop() if self._free else GrpcConnection(self._address)
        try:
            await connection.send(request)
            status = "OK"
        except RequestFailed as error:
            found = _STATUS.match(str(error))
            status = found[1] if found else "incomplete"
        self._free.append(connection)
        told(status)

    async def close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._free))
