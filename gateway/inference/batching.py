"""Joins the rows of many requests for one encoder into few calls of Triton.

A call of one row costs the gateway about as much as a call of thirty, and Triton's own batcher
joins only what reaches it in time. So while fewer than `calls` of an encoder's calls are under way,
a new row leaves at once; rows that come meanwhile wait, and leave together as soon as a call
returns. No row is ever delayed for the sake of a larger batch. If a model fails on the rows of
several requests, those of each run once more by themselves: a row costs only its own request.
"""

import asyncio
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import GatewayError, InferenceFailed
from gateway.inference.capacity import joined, split
from gateway.inference.client import Call, Encoder, InferClient
from gateway.inference.schedule import Job, Origin, Schedule
from gateway.models.values import CallSpan, Deadline, Timings, Vectors


@dataclass(slots=True)
class Batcher:
    """Runs encoders; clients take turns at each. Runs on the event loop, so it needs no lock."""

    client: InferClient
    calls: int  # of one encoder under way at a time, for each Triton
    on_call: Callable[[str, int], None] = lambda model, rows: None  # before each call
    _schedules: dict[str, Schedule] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(
        self,
        encoder: Encoder,
        rows: Sequence[NDArray[Any]],
        deadline: Deadline,
        timings: Timings,
        *,
        bulk: bool,
    ) -> Vectors:
        """Encode rows, of one shape unless the encoder is packed: float32 [n, D], in their order.

        Add to the stages `queue`, the time until its last call left, and `infer`, the rest.

        Raises:
            DeadlineExceeded, Overloaded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        self.client.check()
        schedule = self._schedules.setdefault(encoder.queue, Schedule())
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        origin = Origin(deadline, start, timings.trace, bulk)
        jobs = [Job(part, origin, loop.create_future()) for part in split(encoder, rows)]
        schedule.add(timings.client, encoder, jobs, bulk=bulk)
        self._pump(schedule)
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

    def _pump(self, schedule: Schedule) -> None:
        while schedule.underway < self.calls * self.client.servers() and (call := schedule.next()):
            schedule.underway += 1
            task = asyncio.create_task(self._call(schedule, *call))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _call(self, schedule: Schedule, encoder: Encoder, jobs: list[Job]) -> None:
        """Run jobs in one call, and where the model fails on it, in one for each request."""
        try:
            answer = await self._answer(encoder, jobs)
            origins = dict.fromkeys(job.origin for job in jobs)
            if isinstance(answer, InferenceFailed) and len(origins) > 1:
                for origin in origins:  # in turn: they take the place of one call
                    alone = [job for job in jobs if job.origin is origin and not job.done.done()]
                    if alone:
                        _deliver(alone, await self._answer(encoder, alone))
        finally:
            # The next call leaves before these answers are written, so the encoder is not idle.
            schedule.underway -= 1
            self._pump(schedule)
        _deliver(jobs, answer)

    async def _answer(self, encoder: Encoder, jobs: Sequence[Job]) -> Vectors | Exception:
        """Run the rows of these jobs in one call."""
        span = _traced(encoder, jobs)
        answer: Vectors | Exception
        try:
            batch = joined(encoder, [row for job in jobs for row in job.rows])
            self.on_call(encoder.model, len(batch))
            for job in jobs:
                job.sent = time.perf_counter()
            within = max(job.origin.deadline.at for job in jobs) - Deadline.now()
            bulk = all(job.origin.bulk for job in jobs)
            call = Call(encoder, batch, span.traceparent if span else "", bulk)
            answer = await self.client.infer(call, max(0.001, within))
        except Exception as error:  # of any kind; each job that waits gets it
            answer = error
        if span is not None:
            span.end(type(answer).__name__ if isinstance(answer, Exception) else "")
        return answer


def _deliver(jobs: Sequence[Job], answer: Vectors | Exception) -> None:
    """End the jobs of a call that still wait."""
    start = 0
    for job in jobs:
        end = start + len(job.rows)
        if not job.done.done():
            if isinstance(answer, Exception):
                job.done.set_exception(_copied(answer))
                job.done.exception()  # read here: its request may have ended meanwhile
            else:
                job.done.set_result(answer[start:end])
        start = end


def _traced(encoder: Encoder, jobs: Sequence[Job]) -> CallSpan | None:
    """Begin the span of a call for these jobs; None where no job is traced."""
    traces = list(dict.fromkeys(job.origin.trace for job in jobs if job.origin.trace is not None))
    if not traces:
        return None
    span = traces[0].call(encoder.model, sum(len(job.rows) for job in jobs), traces[1:])
    for job in jobs:
        job.call = span if job.origin.trace is not None else None
    return span


def _copied(error: Exception) -> Exception:
    """Copy an error for one job: an exception collects the traceback of each `raise`."""
    return copy.copy(error) if isinstance(error, GatewayError) else error
