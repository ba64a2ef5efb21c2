"""Joins the rows of many requests for one encoder into few calls of Triton.

A call of one row costs the gateway about as much as a call of thirty, and Triton's own batcher
joins only what reaches it in time. So while fewer than `calls` of an encoder's calls are under way,
a new row leaves at once; rows that come meanwhile wait, and leave together as soon as a call
returns. No row is ever delayed for the sake of a larger batch.

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

from gateway.errors import GatewayError
from gateway.inference.client import Call, Encoder, InferClient
from gateway.models.spans import CallSpan, Trace
from gateway.models.values import Deadline, Timings, Vectors

MAX_CALL_BYTES = 2_500_000  # beyond this, gRPC moves fewer images a second than in smaller calls
MAX_CALL_TOKENS = 1024  # of a packed call: 64 captions, but no more long texts than take as long
PARTS = 16  # of a call: what is taken from one client before it is the next one's turn

Rows = Sequence[NDArray[Any]]  # of one shape; int32 of any length where the encoder is packed


class Fill:
    """How full a call is, or one part of it."""

    def __init__(self, encoder: Encoder, parts: int = 1) -> None:
        """An empty call of an encoder; of so many equal parts, one."""
        self._packed = encoder.pad_id is not None
        self._rows_left = encoder.max_batch // parts
        self._left = (MAX_CALL_TOKENS if self._packed else MAX_CALL_BYTES) // parts

    def takes(self, rows: Rows) -> bool:
        """Whether rows fit beside those that are in."""
        return len(rows) <= self._rows_left and self._size(rows) <= self._left

    def add(self, rows: Rows) -> None:
        """Puts rows in."""
        self._rows_left -= len(rows)
        self._left -= self._size(rows)

    def _size(self, rows: Rows) -> int:
        return sum(row.size if self._packed else row.nbytes for row in rows)


def portions(encoder: Encoder, rows: Rows) -> Iterator[Rows]:
    """Rows in their order, cut into parts of a call; at least one row in each."""
    begin, fill = 0, Fill(encoder, PARTS)
    for end, row in enumerate(rows):
        if end > begin and not fill.takes([row]):
            yield rows[begin:end]
            begin, fill = end, Fill(encoder, PARTS)
        fill.add([row])
    yield rows[begin:]


def joined(encoder: Encoder, rows: Rows) -> NDArray[Any]:
    """The batch of a call: [n, ...], or int32 [n, longest] where the encoder is packed."""
    if encoder.pad_id is None:
        return np.stack(rows)
    batch = np.full((len(rows), max(map(len, rows))), encoder.pad_id, dtype=np.int32)
    for into, row in zip(batch, rows, strict=True):
        into[: len(row)] = row
    return batch


BULK_CALLS = 4  # full ones, that others' urgent jobs may have before a client's bulk


@dataclass(slots=True)
class Job:
    """Rows of one request: a part of a call."""

    rows: Sequence[NDArray[Any]]  # of one shape, unless the encoder is packed
    deadline: Deadline
    done: asyncio.Future[Vectors]  # cancelled when nobody waits for it any more
    since: float  # when it came, on the clock of time.perf_counter
    trace: Trace | None = None  # of its request
    sent: float = 0.0  # when its call left, on the same clock
    call: CallSpan | None = None  # its call, where that is traced


@dataclass(slots=True)
class Lane:
    """What one client waits for at one encoder."""

    urgent: deque[Job] = field(default_factory=deque)
    bulk: deque[Job] = field(default_factory=deque)  # goes where the urgent leaves room

    def first(self) -> Job | None:
        """The job that is next; those that nobody waits for are dropped."""
        for waiting in (self.urgent, self.bulk):
            while waiting:
                if not waiting[0].done.done():
                    return waiting[0]
                waiting.popleft()
        return None

    def pop(self) -> Job:
        """Takes the job that is next."""
        return (self.urgent or self.bulk).popleft()


@dataclass(slots=True)
class Waiting:
    """What one client waits for at one encoder."""

    had: float  # rows, counted on from what those had who waited when it came
    lanes: dict[Encoder, Lane] = field(default_factory=dict)

    def turn(self, encoder: Encoder) -> tuple[float, float] | None:
        """When its next job at a encoder is due: the least goes first; None where there is none."""
        lane = self.lanes.get(encoder)
        job = lane.first() if lane else None
        if lane is None or job is None:
            self.lanes.pop(encoder, None)  # whose version may never be asked for again
            return None
        return self.had + (0 if lane.urgent else BULK_CALLS * encoder.max_batch), job.since


@dataclass(slots=True)
class Turns:
    """What waits for one encoder, by client, and how many of its calls are under way.

    The client that has had the fewest rows is next, so that those that want little do not wait
    behind all of one that wants much. Bulk goes after what is urgent, but not for ever: only until
    the clients before it have had so much more.
    """

    clients: dict[str, Waiting] = field(default_factory=dict)  # those with jobs
    underway: int = 0
    had: float = 0.0  # by the client that was last served: where newcomers begin

    def add(self, client: str, encoder: Encoder, jobs: Sequence[Job], *, bulk: bool) -> None:
        """Puts jobs behind those of their client."""
        waiting = self.clients.setdefault(client, Waiting(self.had))
        lane = waiting.lanes.setdefault(encoder, Lane())
        (lane.bulk if bulk else lane.urgent).extend(jobs)

    def next(self) -> tuple[Encoder, list[Job]] | None:
        """The next call: for the encoder of the job that is due, what goes into one."""
        due = []
        for client, waiting in list(self.clients.items()):
            turns = [
                (t, encoder) for encoder in list(waiting.lanes) if (t := waiting.turn(encoder))
            ]
            if turns:
                due.append(min(turns, key=itemgetter(0)))
            else:
                del self.clients[client]
        if not due:
            return None
        _, encoder = min(due, key=itemgetter(0))
        return encoder, self._take(encoder)

    def _take(self, encoder: Encoder) -> list[Job]:
        taken: list[Job] = []
        fill = Fill(encoder)
        order = [(t, name) for name, each in self.clients.items() if (t := each.turn(encoder))]
        heapify(order)
        while order:
            name = order[0][1]
            waiting = self.clients[name]
            lane = waiting.lanes[encoder]
            job = lane.first()
            if job is None or (taken and not fill.takes(job.rows)):
                break
            taken.append(lane.pop())
            fill.add(job.rows)
            self.had = max(self.had, waiting.had)
            waiting.had += len(job.rows)
            if turn := waiting.turn(encoder):
                heapreplace(order, (turn, name))
            else:
                heappop(order)
        return taken


class Lanes:
    """Runs encoders; clients take turns at each. Lives on the event loop, so it needs no lock."""

    def __init__(
        self,
        client: InferClient,
        calls: int,
        on_call: Callable[[str, int], None] = lambda encoder, rows: None,
    ) -> None:
        """Takes the client of Triton.

        Args:
            client: Runs the calls.
            calls: How many calls of one encoder are under way at a time, for each Triton.
            on_call: Called before each call with the name of its model and the number of rows.
        """
        self._client = client
        self._calls = calls
        self._on_call = on_call
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
        encoder: Encoder,
        rows: Sequence[NDArray[Any]],
        deadline: Deadline,
        timings: Timings,
        *,
        bulk: bool,
    ) -> Vectors:
        """Encodes rows, of one shape unless the encoder is packed: float32 [n, D], in their order.

        Adds to the stages `queue`, until the last of its calls left, and `infer`, the rest.

        Raises:
            DeadlineExceeded, Overloaded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        self.check()
        turns = self._turns.setdefault(encoder.queue, Turns())
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        jobs = [
            Job(portion, deadline, loop.create_future(), start, timings.trace)
            for portion in portions(encoder, rows)
        ]
        turns.add(timings.client, encoder, jobs, bulk=bulk)
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

    async def _call(self, turns: Turns, encoder: Encoder, jobs: list[Job]) -> None:
        span = _traced(encoder, jobs)
        failure: Exception | None = None
        try:
            batch = joined(encoder, [row for job in jobs for row in job.rows])
            self._on_call(encoder.model, len(batch))
            for job in jobs:
                job.sent = time.perf_counter()
            within = max(job.deadline.at for job in jobs) - Deadline.now()
            call = Call(encoder, batch, span.traceparent if span else "")
            vectors = await self._client.infer(call, max(0.001, within))
        except Exception as error:  # handed to those that wait, whatever it is
            failure = error
        finally:
            # The next call leaves before these answers are written: the encoder need not wait.
            turns.underway -= 1
            self._pump(turns)
            if span is not None:
                span.end(type(failure).__name__ if failure else "")
        start = 0
        for job in jobs:
            end = start + len(job.rows)
            if not job.done.done():
                if failure is None:
                    job.done.set_result(vectors[start:end])
                else:
                    job.done.set_exception(_copied(failure))
                    job.done.exception()  # read here, since its request may have left meanwhile
            start = end


def _traced(encoder: Encoder, jobs: Sequence[Job]) -> CallSpan | None:
    """Begins the span of the call that is made for these jobs; None where none is traced."""
    traces = list(dict.fromkeys(job.trace for job in jobs if job.trace is not None))
    if not traces:
        return None
    span = traces[0].call(encoder.model, sum(len(job.rows) for job in jobs), traces[1:])
    for job in jobs:
        job.call = span if job.trace is not None else None
    return span


def _copied(error: Exception) -> Exception:
    """One for each that waits: an exception gathers the traceback of everyone that raises it."""
    return copy.copy(error) if isinstance(error, GatewayError) else error
