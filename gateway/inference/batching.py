"""Joins the rows of many requests for one encoder into few calls of Triton.

A call of one row costs the gateway about as much as a call of thirty, and Triton's own batcher
joins only what reaches it in time. So while fewer than `calls` of an encoder's calls are under way,
a new row leaves at once; rows that come meanwhile wait, and leave together as soon as a call
returns. No row is ever delayed for the sake of a larger batch. If a model fails on the rows of
several requests, those of each run once more by themselves: a row costs only its own request.

Clients take turns at an encoder, row by row. So do the encoders that share a queue: where text is
padded to fixed lengths, each length is an encoder of its own, and all run on the same hardware.
"""

import asyncio
import copy
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import GatewayError, InferenceFailed
from gateway.inference.client import Call, Encoder, InferClient
from gateway.models.spans import CallSpan, Trace
from gateway.models.values import Deadline, Timings, Vectors

MAX_CALL_BYTES = 2_500_000  # beyond this, gRPC moves fewer images a second than in smaller calls
MAX_CALL_TOKENS = 1024  # of a packed call: 64 captions, or as many long texts as take as long
PARTS = 16  # of a call: what one client gets before the next client's turn
BULK_CALLS = 4  # full calls of others' urgent jobs that may go before a client's bulk job

Rows = Sequence[NDArray[Any]]  # of one shape; int32 of any length where the encoder is packed


class Capacity:
    """The rows that still fit into a call, or into one part of a call."""

    def __init__(self, encoder: Encoder, parts: int = 1) -> None:
        """The capacity of an empty call of an encoder, divided by `parts`."""
        self._packed = encoder.pad_id is not None
        self._rows = encoder.max_batch // parts
        self._size = (MAX_CALL_TOKENS if self._packed else MAX_CALL_BYTES) // parts

    def fits(self, rows: Rows) -> bool:
        """Whether there is room for these rows."""
        return len(rows) <= self._rows and self._size_of(rows) <= self._size

    def take(self, rows: Rows) -> None:
        """Takes the room of these rows."""
        self._rows -= len(rows)
        self._size -= self._size_of(rows)

    def _size_of(self, rows: Rows) -> int:
        return sum(row.size if self._packed else row.nbytes for row in rows)


def split(encoder: Encoder, rows: Rows) -> Iterator[Rows]:
    """Splits rows, in their order, into parts of a call; at least one row in each."""
    if len(rows) == 1:  # as most requests have it
        yield rows
        return
    begin, part = 0, Capacity(encoder, PARTS)
    for end, row in enumerate(rows):
        if end > begin and not part.fits([row]):
            yield rows[begin:end]
            begin, part = end, Capacity(encoder, PARTS)
        part.take([row])
    yield rows[begin:]


def joined(encoder: Encoder, rows: Rows) -> NDArray[Any]:
    """The batch of a call: [n, ...], or int32 [n, longest] where the encoder is packed."""
    if encoder.pad_id is None:
        return np.stack(rows)
    batch = np.full((len(rows), max(map(len, rows))), encoder.pad_id, dtype=np.int32)
    for into, row in zip(batch, rows, strict=True):
        into[: len(row)] = row
    return batch


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What the jobs of one run have in common."""

    deadline: Deadline
    since: float  # when it came, on the clock of time.perf_counter
    trace: Trace | None  # of its request
    bulk: bool


@dataclass(slots=True)
class Job:
    """Rows of one request: a part of a call."""

    rows: Rows
    origin: Origin
    done: asyncio.Future[Vectors]  # cancelled once its request has ended
    sent: float = 0.0  # when its call left, on the clock of time.perf_counter
    call: CallSpan | None = None  # the span of its call, where that is traced


@dataclass(slots=True)
class JobQueue:
    """The waiting jobs of one client at one encoder."""

    urgent: deque[Job] = field(default_factory=deque)
    bulk: deque[Job] = field(default_factory=deque)  # goes where the urgent leaves room

    def first(self) -> Job | None:
        """The next job; drops the jobs of requests that have ended."""
        for jobs in (self.urgent, self.bulk):
            while jobs:
                if not jobs[0].done.done():
                    return jobs[0]
                jobs.popleft()
        return None

    def pop(self) -> Job:
        """Takes the next job."""
        return (self.urgent or self.bulk).popleft()


@dataclass(slots=True)
class ClientQueues:
    """The waiting jobs of one client, by encoder."""

    served: float  # rows; a client that comes begins at the count of those that are there
    queues: dict[Encoder, JobQueue] = field(default_factory=dict)

    def priority(self, encoder: Encoder) -> tuple[float, float] | None:
        """The priority of its next job at an encoder, the least first; None without a job."""
        queue = self.queues.get(encoder)
        job = queue.first() if queue else None
        if queue is None or job is None:
            self.queues.pop(encoder, None)  # its version may never be used again
            return None
        return self.served + (
            0 if queue.urgent else BULK_CALLS * encoder.max_batch
        ), job.origin.since


@dataclass(slots=True)
class Schedule:
    """The order of the jobs of encoders that share a queue, and the calls that are under way.

    The client that was served the fewest rows is next, so a client with little work does not wait
    behind all the work of another. A client's bulk job waits for the urgent jobs of others only
    until those clients were served `BULK_CALLS` full calls more.
    """

    clients: dict[str, ClientQueues] = field(default_factory=dict)  # those with jobs
    underway: int = 0
    served: float = 0.0  # rows of the client that was last served: where newcomers begin

    def add(self, client: str, encoder: Encoder, jobs: Sequence[Job], *, bulk: bool) -> None:
        """Puts jobs behind those of their client."""
        mine = self.clients.setdefault(client, ClientQueues(self.served))
        queue = mine.queues.setdefault(encoder, JobQueue())
        (queue.bulk if bulk else queue.urgent).extend(jobs)

    def next(self) -> tuple[Encoder, list[Job]] | None:
        """Takes the jobs of the next call: the first job decides for which encoder it is."""
        if not self.clients:
            return None
        first = []
        for client, mine in list(self.clients.items()):
            own = [(p, encoder) for encoder in list(mine.queues) if (p := mine.priority(encoder))]
            if own:
                first.append(min(own, key=itemgetter(0)))
            else:
                del self.clients[client]
        if not first:
            return None
        _, encoder = min(first, key=itemgetter(0))
        return encoder, self._take(encoder)

    def _take(self, encoder: Encoder) -> list[Job]:
        taken: list[Job] = []
        call = Capacity(encoder)
        order = [(p, name) for name, each in self.clients.items() if (p := each.priority(encoder))]
        heapify(order)
        while order:
            name = order[0][1]
            mine = self.clients[name]
            queue = mine.queues[encoder]
            job = queue.first()
            if job is None or (taken and not call.fits(job.rows)):
                break
            taken.append(queue.pop())
            call.take(job.rows)
            self.served = max(self.served, mine.served)
            mine.served += len(job.rows)
            if priority := mine.priority(encoder):
                heapreplace(order, (priority, name))
            else:
                heappop(order)
        return taken


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
        """Encodes rows, of one shape unless the encoder is packed: float32 [n, D], in their order.

        Adds to the stages `queue`, the time until its last call left, and `infer`, the rest.

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
        """Runs jobs in one call, and where the model fails on it, in one for each request."""
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
        """Runs the rows of these jobs in one call."""
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
    """Ends the jobs of a call that still wait."""
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
    """Begins the span of a call for these jobs; None where no job is traced."""
    traces = list(dict.fromkeys(job.origin.trace for job in jobs if job.origin.trace is not None))
    if not traces:
        return None
    span = traces[0].call(encoder.model, sum(len(job.rows) for job in jobs), traces[1:])
    for job in jobs:
        job.call = span if job.origin.trace is not None else None
    return span


def _copied(error: Exception) -> Exception:
    """Copies an error for one job: an exception collects the traceback of each `raise`."""
    return copy.copy(error) if isinstance(error, GatewayError) else error
