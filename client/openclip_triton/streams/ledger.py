"""A stream's items, read, queued and sent: the only state that its threads share."""

import heapq
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from openclip_api.v1 import clip_pb2 as pb

MESSAGE_ITEMS = 16
MESSAGE_BYTES = 2**20


@dataclass(slots=True)
class Entry:
    """An unanswered item."""

    item: pb.Item
    size: int  # bytes
    attempts: int = 0  # answers with an error that may pass
    sent: bool = False  # on the current connection


@dataclass(slots=True)
class Ledger:
    """Bounded: readers wait for room, which only a result taken by the caller frees."""

    max_items: int
    max_bytes: int
    condition: threading.Condition = field(default_factory=threading.Condition)
    held_items: int = 0
    held_bytes: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    queue: deque[int] = field(default_factory=deque)  # numbers of items to send
    # A heap of (monotonic seconds, number).
    delayed: list[tuple[float, int]] = field(default_factory=list)
    connection: int = 0  # number of the current connection
    reading: bool = True  # whether the source may still give items
    closed: bool = False
    last_sent: float = 0.0  # monotonic seconds

    def may_admit(self) -> bool:
        """Whether `admit` would return at once."""
        return self.closed or self.held_items < self.max_items

    def admit(self) -> bool:
        """Wait for room for one more item; False once the stream is closed."""
        with self.condition:
            self.condition.wait_for(self.may_admit)
            self.held_items += 1
            return not self.closed

    def may_reserve(self, size: int) -> bool:
        """Whether `reserve` would return at once."""
        fits = not self.held_bytes or self.held_bytes + size <= self.max_bytes
        return self.closed or fits

    def reserve(self, size: int) -> bool:
        """Wait for room for `size` bytes; False once the stream is closed."""
        with self.condition:
            self.condition.wait_for(lambda: self.may_reserve(size))
            self.held_bytes += size
            return not self.closed

    def release(self, size: int) -> None:
        """Free the room of one item of `size` bytes."""
        with self.condition:
            self.held_items -= 1
            self.held_bytes -= size
            self.condition.notify_all()

    def add(self, number: int, entry: Entry) -> None:
        """Queue an item that has been read."""
        with self.condition:
            self.entries[number] = entry
            self.queue.append(number)
            self.condition.notify_all()

    def take(self, connection: int) -> list[tuple[int, pb.Item]] | None:
        """Wait for the items of one message; None once this connection has no more to send."""
        with self.condition:
            self.condition.wait_for(
                lambda: (
                    self.queue
                    or self.closed
                    or connection != self.connection
                    or not (self.reading or self.entries)
                )
            )
            if connection != self.connection or not self.queue:
                return None
            taken: list[tuple[int, pb.Item]] = []
            size = 0
            while self.queue and len(taken) < MESSAGE_ITEMS:
                entry = self.entries[self.queue[0]]
                size += entry.size
                if taken and size > MESSAGE_BYTES:
                    break
                entry.sent = True
                taken.append((self.queue.popleft(), entry.item))
            self.last_sent = time.monotonic()
            return taken

    def awaited(self, number: int) -> Entry | None:
        """The item of an answer; None if it was answered before."""
        with self.condition:
            entry = self.entries.get(number)
            return entry if entry is not None and entry.sent else None

    def settle(self, number: int) -> None:
        """Remove an answered item."""
        with self.condition:
            del self.entries[number]
            self.condition.notify_all()

    def retry(self, number: int, delay: float) -> None:
        """Send an item again after `delay` seconds."""
        with self.condition:
            self.entries[number].sent = False
            heapq.heappush(self.delayed, (time.monotonic() + delay, number))

    def wake(self) -> float | None:
        """Queue the items whose delay is over; return the seconds until the next, or None."""
        with self.condition:
            now = time.monotonic()
            while self.delayed and self.delayed[0][0] <= now:
                self.queue.append(heapq.heappop(self.delayed)[1])
                self.condition.notify_all()
            return max(0.0, self.delayed[0][0] - now) if self.delayed else None

    def reconnect(self) -> int:
        """Queue all unanswered items for a new connection, and return its number."""
        with self.condition:
            delayed = {number for _, number in self.delayed}
            self.queue = deque(sorted(self.entries.keys() - delayed))
            for entry in self.entries.values():
                entry.sent = False
            self.connection += 1
            self.condition.notify_all()
            return self.connection

    def waiting_since(self) -> float | None:
        """Time of the last sent message, if an item awaits its answer (monotonic seconds)."""
        with self.condition:
            waiting = any(entry.sent for entry in self.entries.values())
            return self.last_sent if waiting else None

    def stop_reading(self) -> None:
        """Mark the source as exhausted."""
        with self.condition:
            self.reading = False
            self.condition.notify_all()

    def close(self) -> None:
        """Release every waiting thread."""
        with self.condition:
            self.closed = True
            self.condition.notify_all()
