"""Joins what requests want of the same encoder into few calls of Triton.

A call costs the gateway about as much for one row as for thirty, and Triton's own batcher joins
only what reaches it in time. So rows of one shape have a lane: while fewer than `calls` of the
encoder's calls are under way a new row leaves at once; what comes meanwhile waits, and goes
together as soon as a call returns. Nothing is ever delayed for the sake of a larger batch.

A packed text tower takes rows of any length, so it has one lane. Where text is padded to fixed
lengths each has a tower of its own; all of them run on the same cores or GPU, so their lanes take
turns: the one goes whose first row waits longest.
"""

import asyncio
import copy
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.batches import Fill, joined, portions
from gateway.errors import GatewayError
from gateway.inference import Call, InferClient, Tower
from gateway.spans import CallSpan, Trace
from gateway.values import Deadline, Timings, Vectors


@dataclass(slots=True)
class Job:
    """Rows of one request, few enough for one call."""

    rows: Sequence[NDArray[Any]]  # of one shape, unless the tower is packed
    deadline: Deadline
    done: asyncio.Future[Vectors]  # cancelled when nobody waits for it any more
    since: float  # when it came, on the clock of time.perf_counter
    trace: Trace | None = None  # of its request
    sent: float = 0.0  # when its call left, on the same clock
    call: CallSpan | None = None  # its call, where that is traced


@dataclass(slots=True)
class Lane:
    """What waits for one tower."""

    tower: Tower
    urgent: deque[Job] = field(default_factory=deque)
    bulk: deque[Job] = field(default_factory=deque)  # goes where the urgent leaves room

    def take(self) -> list[Job]:
        """The next jobs that fit into one call; those that nobody waits for are dropped."""
        taken: list[Job] = []
        fill = Fill(self.tower)
        for waiting in (self.urgent, self.bulk):
            while waiting:
                job = waiting[0]
                if job.done.done():
                    waiting.popleft()
                    continue
                if taken and not fill.takes(job.rows):
                    return taken
                taken.append(waiting.popleft())
                fill.add(job.rows)
        return taken


@dataclass(slots=True)
class Turns:
    """The lanes of one encoder that somebody waits in, and how many of its calls are under way."""

    lanes: dict[Tower, Lane] = field(default_factory=dict)
    underway: int = 0

    def lane(self, tower: Tower) -> Lane:
        """The lane of one of its towers, to be filled before anything else is done."""
        return self.lanes.setdefault(tower, Lane(tower))

    def next(self) -> tuple[Tower, list[Job]] | None:
        """The next call: of the lane that waits longest, those with something urgent first."""
        while True:
            urgent = [(lane.urgent[0].since, lane) for lane in self.lanes.values() if lane.urgent]
            bulk = [(lane.bulk[0].since, lane) for lane in self.lanes.values() if lane.bulk]
            if not urgent and not bulk:
                return None
            _, first = min(urgent or bulk, key=itemgetter(0))
            jobs = first.take()
            if not first.urgent and not first.bulk:
                del self.lanes[first.tower]  # whose version may never be asked for again
            if jobs:  # none where nobody waits for them any more
                return first.tower, jobs


class Lanes:
    """Runs encoders; one lane for each tower. Lives on the event loop, so it needs no lock."""

    def __init__(
        self,
        client: InferClient,
        calls: int,
        called: Callable[[str, int], None] = lambda tower, rows: None,
    ) -> None:
        """Takes the client of Triton.

        Args:
            client: Runs the calls.
            calls: How many calls of one encoder are under way at a time, for each Triton.
            called: Told of each call: the tower's name and the number of rows.
        """
        self._client = client
        self._calls = calls
        self._called = called
        self._turns: dict[str, Turns] = {}
        self._running: set[asyncio.Task[None]] = set()

    def check(self) -> None:
        """Says at once when work is in vain.

        Raises:
            Unavailable: No Triton answers.
        """
        self._client.check()

    async def run(
        self,
        tower: Tower,
        rows: Sequence[NDArray[Any]],
        deadline: Deadline,
        timings: Timings,
        *,
        bulk: bool,
    ) -> Vectors:
        """Encodes rows, of one shape unless the tower is packed: float32 [n, D], in their order.

        Adds to the stages `queue`, until the last of its calls left, and `infer`, the rest.

        Raises:
            DeadlineExceeded, Overloaded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        self.check()
        turns = self._turns.setdefault(tower.encoder, Turns())
        lane = turns.lane(tower)
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        jobs = [
            Job(portion, deadline, loop.create_future(), start, timings.trace)
            for portion in portions(tower, rows)
        ]
        (lane.bulk if bulk else lane.urgent).extend(jobs)
        self._pump(turns)
        try:
            parts = [await job.done for job in jobs]
            sent = max(job.sent for job in jobs)
            timings.add("queue", sent - start, end=sent)
            calls = [job.call for job in jobs if job.call is not None]
            timings.add("infer", time.perf_counter() - sent, calls=calls)
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        finally:
            for job in jobs:
                job.done.cancel()

    def _pump(self, turns: Turns) -> None:
        while turns.underway < self._calls * self._client.servers() and (call := turns.next()):
            turns.underway += 1
            task = asyncio.create_task(self._call(turns, *call))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _call(self, turns: Turns, tower: Tower, jobs: list[Job]) -> None:
        span, failure = _traced(tower, jobs), ""
        try:
            batch = joined(tower, [row for job in jobs for row in job.rows])
            self._called(tower.model, len(batch))
            for job in jobs:
                job.sent = time.perf_counter()
            within = max(job.deadline.at for job in jobs) - Deadline.now()
            call = Call(tower, batch, span.traceparent if span else "")
            vectors = await self._client.infer(call, max(0.001, within))
        except Exception as error:  # handed to those that wait, whatever it is
            failure = type(error).__name__
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(_copied(error))
                    job.done.exception()  # read here, since its request may have left meanwhile
        else:
            start = 0
            for job in jobs:
                end = start + len(job.rows)
                if not job.done.done():
                    job.done.set_result(vectors[start:end])
                start = end
        finally:
            turns.underway -= 1
            self._pump(turns)
            if span is not None:
                span.end(failure)


def _traced(tower: Tower, jobs: Sequence[Job]) -> CallSpan | None:
    """Begins the span of the call that is made for these jobs; None where none is traced."""
    traces = list(dict.fromkeys(job.trace for job in jobs if job.trace is not None))
    if not traces:
        return None
    span = traces[0].call(tower.model, sum(len(job.rows) for job in jobs), traces[1:])
    for job in jobs:
        job.call = span if job.trace is not None else None
    return span


def _copied(error: Exception) -> Exception:
    """One for each that waits: an exception gathers the traceback of everyone that raises it."""
    return copy.copy(error) if isinstance(error, GatewayError) else error
