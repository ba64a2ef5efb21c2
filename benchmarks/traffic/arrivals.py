"""Open loops: requests are sent when they are due, whether earlier ones are answered or not.

Users do not wait for each other. A closed loop sends less while the service is slow, and so hides
the queue; here the latency of a request counts from the moment at which it was due.
"""

import asyncio
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from benchmarks.traffic.connection import Pool, RequestFailed, Target
from benchmarks.traffic.loops import percentiles_ms
from benchmarks.traffic.requests import Request, requests

MOST_CONNECTIONS = 512  # of one process; a request that finds none free waits, which counts
START_DELAY = 0.5  # seconds until the first request, for every process to be there


@dataclass(frozen=True, slots=True)
class Plan:
    """What one client process sends."""

    target: Target
    kind: str
    rate: float  # requests per second, on average
    seconds: float
    seed: int


@dataclass(slots=True)
class Outcome:
    """What became of the requests of one offered load."""

    latencies: list[float] = field(default_factory=list)  # seconds, from when it was due
    lateness: list[float] = field(default_factory=list)  # seconds, of the client itself
    errors: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    elapsed: float = 0.0  # seconds, from the first that was due to the last answer

    def values(self, offered: float, seconds: float) -> dict[str, float]:
        """The figures of a row of results, of a load that was offered for `seconds`."""
        late = float(np.percentile(self.lateness, 99)) * 1000 if self.lateness else 0.0
        return {
            "offered_per_second": offered,
            "sent_per_second": self.sent / seconds,
            "per_second": len(self.latencies) / self.elapsed if self.elapsed else 0.0,
            **percentiles_ms(self.latencies),
            "requests": self.sent,
            "errors": self.errors.total(),
            "client_late_p99_ms": late,
        }


def due_times(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When requests are due, in seconds from the start: a Poisson process of this rate.

    At a rate of zero, as of a service that answered nothing before, there are none.
    """
    if rate <= 0:
        return
    chance = random.Random(seed)
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


def offer(
    target: Target, kind: str, rate: float, seconds: float, processes: int = 1, seed: int = 0
) -> Outcome:
    """Offers a load for `seconds`, from one or more client processes, and waits for the end.

    Poisson processes add up to a Poisson process, so each client process sends its share alone.
    """
    plans = [
        Plan(target, kind, rate / processes, seconds, seed * processes + number)
        for number in range(processes)
    ]
    if processes == 1:
        return _run(plans[0])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        return _joined(list(pool.map(_run, plans)))


def _run(plan: Plan) -> Outcome:
    return asyncio.run(_drive(plan))


async def _drive(plan: Plan) -> Outcome:
    stream = requests(plan.kind, plan.target.model, plan.seed)
    # All of them first, so that making them delays none.
    due = list(due_times(plan.rate, plan.seconds, plan.seed))
    prepared = [next(stream) for _ in due]
    outcome = Outcome(sent=len(due))
    pool, slots = Pool(plan.target), asyncio.Semaphore(MOST_CONNECTIONS)

    async def send(request: Request, due: float) -> None:
        async with slots:
            try:
                await pool.send(request)
                outcome.latencies.append(time.perf_counter() - due)
            except RequestFailed as error:
                outcome.errors[str(error)] += 1

    start = time.perf_counter() + START_DELAY
    async with asyncio.TaskGroup() as group:
        for moment, request in zip(due, prepared, strict=True):
            delay = start + moment - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            outcome.lateness.append(max(0.0, time.perf_counter() - start - moment))
            group.create_task(send(request, start + moment))
    outcome.elapsed = max(plan.seconds, time.perf_counter() - start)
    await pool.close()
    return outcome


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        [latency for each in outcomes for latency in each.latencies],
        [late for each in outcomes for late in each.lateness],
        sum((each.errors for each in outcomes), Counter()),
        sum(each.sent for each in outcomes),
        max(each.elapsed for each in outcomes),
    )
