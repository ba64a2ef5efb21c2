"""Runs the batches of a folder: in one process, one batch of each owner at a time."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn, Protocol

from gateway.errors import (
    DeadlineExceeded,
    Overloaded,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from gateway.operations.batches.lines import Answered, Line, Progress, WrongLineError, check
from gateway.operations.batches.objects import (
    ENDED,
    BatchError,
    BatchErrors,
    StoredBatch,
)
from gateway.operations.batches.pace import Pace
from gateway.operations.batches.space import Space
from gateway.operations.batches.store import Store
from gateway.pipeline.concurrency import Threads, gather

LOOK_S = 1.0  # between looks at the folder
PURGE_S = 60.0
BATCHES = 4  # at a time
LATE = 3  # attempts for a line that runs out of time
LONGEST_PAUSE_S = 10.0  # before the next attempt

logger = logging.getLogger(__name__)


class Answer(Protocol):
    """Answers the request of one line."""

    async def __call__(self, owner: str | None, body: bytes, *, last: bool) -> Answered:
        """Answer the JSON body of an owner's request.

        Raises:
            Unauthenticated: The owner's key is not known any more.
            Overloaded, QuotaExceeded, Unavailable: A later attempt may succeed.
            DeadlineExceeded: Likewise; in the `last` attempt it is an answer, as other errors are.
        """


@dataclass(frozen=True, slots=True)
class _End:
    """How a batch ends before its last line is answered."""

    status: str
    code: str
    message: str


_EXPIRED = _End(
    "expired",
    "batch_expired",
    "the line was not answered before the batch's completion window ended",
)
_CANCELLED = _End(
    "cancelled", "batch_cancelled", "the batch was cancelled before the line was answered"
)


class Runner:
    """Runs the batches of a folder."""

    def __init__(self, store: Store, answer: Answer, quiet_s: Callable[[], float]) -> None:
        """`quiet_s` returns the seconds since the last other request; 0 while there is one."""
        self._store = store
        self._answer = answer
        self._pace = Pace(quiet_s)
        self._over: set[str] = set()  # ids of ended batches, read once between purges
        self._threads = Threads(1)  # for all reads and writes, in order

    async def run(self) -> NoReturn:
        """Run them while this process holds the folder's lock, for which it waits."""
        try:
            while True:
                try:
                    await self._run_locked()
                except OSError:  # such as a disk that is away for a while
                    logger.exception("GATEWAY_BATCH_DIR cannot be used; it is tried again")
                    await asyncio.sleep(LONGEST_PAUSE_S)
                await asyncio.sleep(LOOK_S)
        finally:
            await self._threads.close()

    async def _run_locked(self) -> None:
        lock = await self._threads.run(self._store.lock)
        if lock is None:
            return
        try:
            await self._run_all()
        finally:  # after the last read or write, since another process takes over
            await self._threads.run(os.close, lock)

    async def _run_all(self) -> NoReturn:
        running: dict[str, asyncio.Task[None]] = {}  # by id
        purged = float("-inf")
        try:
            while True:
                if time.monotonic() - purged > PURGE_S:
                    await self._threads.run(self._store.purge)
                    self._over.clear()
                    purged = time.monotonic()
                running = {name: task for name, task in running.items() if not task.done()}
                for space, stored in await self._threads.run(self._due):
                    if stored.batch.id not in running and len(running) < BATCHES:
                        running[stored.batch.id] = asyncio.create_task(self._run(space, stored))
                await asyncio.sleep(LOOK_S)
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    def _due(self) -> list[tuple[Space, StoredBatch]]:
        """The oldest batch of each owner that has not ended, and one more that only has to end."""
        found = []
        for space in self._store.spaces():
            batches = space.stored(self._over)
            live = [each for each in batches if each.batch.status not in ENDED]
            self._over |= {each.batch.id for each in batches if each.batch.status in ENDED}
            ending = (each for each in live[1:] if _end(space, each) is not None)
            found += [(space, each) for each in (*live[:1], *islice(ending, 1))]
        return sorted(found, key=lambda each: each[1].batch.created_at)

    async def _run(self, space: Space, stored: StoredBatch) -> None:
        """Run one batch to its end; where it cannot, wait before the next attempt."""
        name = stored.batch.id
        try:
            await self._run_to_end(space, stored)
            logger.info("%s: %s, %s", name, stored.batch.status, stored.batch.request_counts)
        except Exception:
            logger.exception("%s: cannot be run; it is tried again", name)
            await asyncio.sleep(LONGEST_PAUSE_S)

    async def _run_to_end(self, space: Space, stored: StoredBatch) -> None:
        try:
            await self._validate(space, stored)
            if stored.batch.status not in ENDED:
                await self._work(space, stored)
        except (TooLarge, Unauthenticated) as error:
            await self._fail(space, stored, [BatchError(code=error.code, message=error.message)])
        except WrongLineError as wrong:  # an older release checked the file
            await self._fail(space, stored, [wrong.error])
        except FileNotFoundError:
            message = "the input file was deleted"
            await self._fail(space, stored, [BatchError(code="file_not_found", message=message)])

    async def _validate(self, space: Space, stored: StoredBatch) -> None:
        batch = stored.batch
        if batch.status != "validating":
            return
        path, most = space.content(batch.input_file_id), self._store.limits.lines
        total, errors = await self._threads.run(check, path, batch.endpoint, most)
        batch.request_counts.total = total
        if errors:
            await self._fail(space, stored, errors)
            return
        batch.status, batch.in_progress_at = "in_progress", _now()
        await self._threads.run(space.put, stored)

    async def _work(self, space: Space, stored: StoredBatch) -> None:
        batch = stored.batch
        files = map(space.content, (batch.input_file_id, stored.output_id, stored.errors_id))
        progress = await self._threads.run(Progress, *files, batch.endpoint, batch.request_counts)
        end: _End | None = None
        try:
            written = 0.0
            while end is None:
                group = await self._threads.run(progress.next, self._pace.lines())
                if not group:
                    break
                began = time.monotonic()
                outcomes = await gather(self._line(space, stored, line) for line in group)
                took_s = time.monotonic() - began
                pairs = list(zip(group, outcomes, strict=True))
                answered = [(line, each) for line, each in pairs if isinstance(each, Answered)]
                await self._threads.run(progress.add, answered)
                if time.monotonic() - written > LOOK_S:
                    await self._threads.run(space.check_room, 0)
                    await self._threads.run(space.put, stored)
                    end = await self._ended(space, stored)
                    written = time.monotonic()
                left = [line for line, each in pairs if isinstance(each, _End)]
                end = next((each for each in outcomes if isinstance(each, _End)), end)
                if end is not None:
                    await self._threads.run(progress.refuse, left, end.code, end.message)
                else:
                    await self._pace.rest(took_s)
        finally:
            await self._threads.run(progress.close)
        await self._threads.run(_finish, space, stored, end.status if end else "completed")

    async def _line(self, space: Space, stored: StoredBatch, line: Line) -> Answered | _End:
        attempt = late = 0
        while True:
            try:
                return await self._answer(space.owner, line.body, last=late == LATE - 1)
            except DeadlineExceeded:
                late += 1
                pause_s = 0.0
            except (Overloaded, QuotaExceeded, Unavailable) as error:
                pause_s = error.retry_after_s or 2.0 ** min(attempt, 5)
            attempt += 1
            if (end := await self._ended(space, stored)) is not None:
                return end
            await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))

    async def _ended(self, space: Space, stored: StoredBatch) -> _End | None:
        return await self._threads.run(_end, space, stored)

    async def _fail(self, space: Space, stored: StoredBatch, errors: list[BatchError]) -> None:
        logger.warning("%s: failed: %s", stored.batch.id, errors[0].code)
        stored.batch.errors = BatchErrors(data=errors)
        await self._threads.run(_finish, space, stored, "failed")


def _end(space: Space, stored: StoredBatch) -> _End | None:
    """How a batch ends before its last line is answered; None: it does not."""
    if time.time() >= stored.batch.expires_at:
        return _EXPIRED
    return None if space.cancelled_at(stored.batch.id) is None else _CANCELLED


def _finish(space: Space, stored: StoredBatch, status: str) -> None:
    """Publish the files of answers and errors that are not empty, then write the batch's end."""
    batch = stored.batch
    batch.finalizing_at = _now()
    for file_id, field, filename in (
        (stored.output_id, "output_file_id", f"{batch.id}_output.jsonl"),
        (stored.errors_id, "error_file_id", f"{batch.id}_error.jsonl"),
    ):
        content: Path = space.content(file_id)
        if content.exists() and content.stat().st_size:
            space.publish(file_id, filename, "batch_output", stored.keep_s)
            setattr(batch, field, file_id)
    batch.cancelling_at = space.cancelled_at(batch.id)
    setattr(batch, f"{status}_at", _now())
    batch.status = status  # type: ignore[assignment] # one of `ENDED`
    space.put(stored)


def _now() -> int:
    return int(time.time())
