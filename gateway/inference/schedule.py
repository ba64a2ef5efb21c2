"""The jobs that wait for an encoder, by client, and the order in which they leave.

Clients take turns at an encoder, row by row. So do the encoders that share a queue: where text is
padded to fixed lengths, each length is an encoder of its own, and all run on the same hardware.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from operator import itemgetter

from gateway.inference.capacity import Capacity, Rows
from gateway.inference.client import Encoder
from gateway.models.values import CallSpan, Deadline, Trace, Vectors

BULK_CALLS = 4  # full calls of others' urgent jobs that may go before a client's bulk job


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
        """The next job; drop the jobs of requests that have ended."""
        for jobs in (self.urgent, self.bulk):
            while jobs:
                if not jobs[0].done.done():
                    return jobs[0]
                jobs.popleft()
        return None

    def pop(self) -> Job:
        """Take the next job."""
        return (self.urgent or self.bulk).popleft()


@dataclass(slots=True)
class ClientQueues:
    """The waiting jobs of one client, by encoder."""

    served: int  # rows; a client that comes begins at the count of those that are there
    queues: dict[Encoder, JobQueue] = field(default_factory=dict)

    def priority(self, encoder: Encoder) -> tuple[int, float] | None:
        """The priority of its next job at an encoder, the least first.

        Without a job it is None, and the queue is dropped.
        """
        queue = self.queues.get(encoder)
        job = queue.first() if queue else None
        if queue is None or job is None:
            self.queues.pop(encoder, None)  # its version may never be used again
            return None
        behind = 0 if queue.urgent else BULK_CALLS * encoder.max_batch
        return self.served + behind, job.origin.since


@dataclass(slots=True)
class Schedule:
    """The order of the jobs of encoders that share a queue, and the calls that are under way.

    The client that was served the fewest rows is next, so a client with little work does not wait
    behind all the work of another. A client's bulk job waits for the urgent jobs of others only
    until those clients were served `BULK_CALLS` full calls more.
    """

    clients: dict[str, ClientQueues] = field(default_factory=dict)  # those with jobs
    underway: int = 0
    served: int = 0  # rows of the client that was last served: where newcomers begin

    def add(self, client: str, encoder: Encoder, jobs: Sequence[Job], *, bulk: bool) -> None:
        """Put jobs behind those of their client."""
        mine = self.clients.setdefault(client, ClientQueues(self.served))
        queue = mine.queues.setdefault(encoder, JobQueue())
        (queue.bulk if bulk else queue.urgent).extend(jobs)

    def next(self) -> tuple[Encoder, list[Job]] | None:
        """Take the jobs of the next call: the first job decides for which encoder it is."""
        waiting: list[tuple[tuple[int, float], Encoder]] = []
        for client, mine in list(self.clients.items()):
            queues = list(mine.queues)
            waiting += [(p, encoder) for encoder in queues if (p := mine.priority(encoder))]
            if not mine.queues:
                del self.clients[client]
        if not waiting:
            return None
        _, encoder = min(waiting, key=itemgetter(0))
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
