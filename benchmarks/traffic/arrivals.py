"""Open loops: send requests when they are due, whether or not earlier ones are answered.

Users do not wait for each other. A closed loop sends less while the service is slow, and so hides
the queue; here the latency of a request counts from the moment at which it was due.
"""

import asyncio
import itertools
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from benchmarks.traffic.connection import Pool, RequestFailed, Target
from benchmarks.traffic.loops import percentiles_ms
from benchmarks.traffic.requests import GRPC, Request, requests

MOST_CONNECTIONS = 512  # of one process; waiting for a free one counts as latency
MOST_FLOODING = 1_024  # of a flood; a request without a free one counts as unsent
START_DELAY = 0.5  # seconds until the first request, so that every process has started
ACCEPTED = {"200", "OK"}
REFUSED = {"429", "RESOURCE_EXHAUSTED"}


@dataclass(slots=True)
class Outcome:
    """The outcomes of the requests of one offered load."""

    statuses: Counter[str] = field(default_factory=Counter)  # HTTP's; gRPC's by name
    accepted: list[float] = field(default_factory=list)  # latency of each, in seconds
    refused: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)  # seconds, of the client itself
    unsent: int = 0  # requests of a flood that found no free connection
    elapsed: float = 0.0  # seconds, from the first that was due to the last answer
    client_seconds: float = 0.0  # CPU time of the client itself

    def add(self, status: str, seconds: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        if status in ACCEPTED:
            self.accepted.append(seconds)
        elif status in REFUSED:
            self.refused.append(seconds)

    def others(self) -> dict[str, int]:
        """Number of answers with a status other than those of an overloaded service."""
        return {k: n for k, n in sorted(self.statuses.items()) if k not in ACCEPTED | REFUSED}

    def values(self, offered: float, seconds: float) -> dict[str, float]:
        """The figures of a results row, for a load offered for `seconds`."""
        sent = self.statuses.total()
        return {
            "offered_per_second": offered,
            "sent_per_second": sent / seconds,
            "per_second": len(self.accepted) / self.elapsed if self.elapsed else 0.0,
            **percentiles_ms(self.accepted),
            "requests": sent,
            "errors": sent - len(self.accepted),
            "client_late_p99_ms": percentiles_ms(self.lateness)["p99_ms"],
        }


def due_times(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Due times of requests, in seconds from the start: a Poisson process of this rate.

    Empty at a rate of zero, as for a service that answered nothing before.
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
    """Offer a load for `seconds` from one or more client processes, and wait until it ends.

    Poisson processes add up to a Poisson process, so client processes need no coordination.
    """
    shares = [
        (target, kind, rate / processes, seconds, seed * processes + number)
        for number in range(processes)
    ]
    if processes == 1:
        return _share(*shares[0])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        outcomes = list(pool.map(_share, *zip(*shares, strict=True)))
    return Outcome(
        sum((each.statuses for each in outcomes), Counter()),
        [seconds for each in outcomes for seconds in each.accepted],
        [seconds for each in outcomes for seconds in each.refused],
        [seconds for each in outcomes for seconds in each.lateness],
        elapsed=max(each.elapsed for each in outcomes),
        client_seconds=sum(each.client_seconds for each in outcomes),
    )


async def flood(
    target: Target, sent: Sequence[Request], rate: float, seconds: float, seed: int = 0
) -> Outcome:
    """Send requests when they are due, cycling through the given ones.

    Latency counts from the time of sending, since the client may be later than the service.
    Returns when the last request is answered.
    """
    due = due_times(rate, seconds, seed)
    return await _send(target, due, itertools.cycle(sent), time.perf_counter(), flooding=True)


def _share(target: Target, kind: str, rate: float, seconds: float, seed: int) -> Outcome:
    # Made in advance, so that making a request delays none.
    due = list(due_times(rate, seconds, seed))
    prepared = list(itertools.islice(requests(kind, target.model, seed), len(due)))
    outcome = asyncio.run(_send(target, due, prepared, time.perf_counter() + START_DELAY))
    outcome.elapsed = max(seconds, outcome.elapsed)
    return outcome


async def _send(
    target: Target, due: Iterable[float], sent: Iterable[Request], start: float, *,
    flooding: bool = False,
) -> Outcome:  # fmt: skip
    outcome, pool = Outcome(), Pool(target)
    slots = asyncio.Semaphore(MOST_FLOODING if flooding else MOST_CONNECTIONS)

    async def send(request: Request, begun: float) -> None:
        async with slots:
            try:
                await pool.send(request)
                status = "OK" if request.protocol == GRPC else "200"
            except RequestFailed as error:
                status = error.status
        outcome.add(status, time.perf_counter() - begun)

    used = time.process_time()
    async with asyncio.TaskGroup() as group:
        for moment, request in zip(due, sent, strict=False):
            # Even a late client processes its answers.
            await asyncio.sleep(max(0.0, start + moment - time.perf_counter()))
            now = time.perf_counter()
            outcome.lateness.append(max(0.0, now - start - moment))
            if flooding and slots.locked():
                outcome.unsent += 1
                continue
            group.create_task(send(request, now if flooding else start + moment))
    outcome.elapsed = time.perf_counter() - start
    outcome.client_seconds = time.process_time() - used
    await pool.close()
    return outcome
