"""The items of a stream that were read and are not answered yet: what bounds its memory."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import RequestError
from gateway.models.values import Item


@dataclass(frozen=True, slots=True)
class Pending:
    """One item of a stream."""

    id: str  # the client's own
    item: Item | RequestError  # an error where the message held no item
    size: int  # bytes


class Window:
    """Items between one reader and several workers. Lives on the event loop: no lock.

    An item is taken at once where nothing else is worked on; otherwise items wait until they make
    a full batch, until the window is full, or until the work before them is done.
    """

    def __init__(self, max_items: int, max_bytes: int, batch_items: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._batch_items = batch_items
        self._waiting: deque[Pending] = deque()
        self._running = 0  # batches
        self._full = False
        self._closed = False
        self._changed = asyncio.Event()
        self._freed = asyncio.Event()
        self.items = 0
        self.bytes = 0

    async def put(self, pending: Pending) -> None:
        """Add an item once there is room; an item larger than all the room comes in alone."""
        while self.items and (
            self.items >= self._max_items or self.bytes + pending.size > self._max_bytes
        ):
            self._full = True
            self._changed.set()
            self._freed.clear()
            await self._freed.wait()
        self._full = False
        self.items += 1
        self.bytes += pending.size
        self._waiting.append(pending)
        self._changed.set()

    async def take(self) -> list[Pending]:
        """The next batch, to be released when it is answered; empty when there is none left."""
        while not self._due() and not (self._closed and not self._waiting):
            self._changed.clear()
            await self._changed.wait()
        count = min(self._batch_items, len(self._waiting))
        self._running += bool(count)
        return [self._waiting.popleft() for _ in range(count)]

    def release(self, batch: Sequence[Pending]) -> None:
        """Make the room of a batch free again."""
        self._running -= 1
        self.items -= len(batch)
        self.bytes -= sum(pending.size for pending in batch)
        self._freed.set()
        self._changed.set()

    def close(self) -> None:
        """Say that no more items come."""
        self._closed = True
        self._changed.set()

    def _due(self) -> bool:
        waiting = len(self._waiting)
        hurried = self._full or self._closed or not self._running
        return waiting >= self._batch_items or (waiting > 0 and hurried)
