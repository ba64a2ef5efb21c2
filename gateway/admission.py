"""Permits and deadlines: a request without room is refused before any work."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.values import Deadline

WINDOW_S = 10  # how far back the drain rate looks
SHORTEST_S, LONGEST_S = 1.0, 30.0  # what a client is told to wait at least, and at most


@dataclass(frozen=True, slots=True)
class Room:
    """How much is worked on at a time."""

    requests: int  # a stream counts as one
    items: int  # texts and images
    bytes: int  # of bodies


class Drain:
    """How many items a second are done with, over the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes what tells seconds."""
        self._clock = clock
        self._begun = clock()
        self._done: Counter[int] = Counter()  # items by second

    def add(self, items: int) -> None:
        """Counts items that are done with now."""
        self._forget()
        self._done[int(self._clock())] += items

    def seconds(self, items: int) -> float:
        """How long so many items take at that rate."""
        self._forget()
        past = min(float(WINDOW_S), max(1.0, self._clock() - self._begun))
        rate = self._done.total() / past
        if not rate:
            return SHORTEST_S if self._clock() - self._begun < WINDOW_S else LONGEST_S
        return min(LONGEST_S, max(SHORTEST_S, items / rate))

    def _forget(self) -> None:
        oldest = int(self._clock()) - WINDOW_S
        for second in [each for each in self._done if each <= oldest]:
            del self._done[second]


class Permit:
    """Room for one request. Its items are claimed once they are known."""

    def __init__(self, admission: "Admission", items: int, size: int) -> None:
        """Takes what is counted already."""
        self._admission = admission
        self.items = items
        self.bytes = size

    def claim(self, items: int) -> None:
        """Takes room for all the items of the request, before any of them is worked on.

        Raises:
            Overloaded: There is none.
        """
        self._admission.grow(self, items)

    def before(self, spend: Callable[[int], None]) -> Callable[[int], None]:
        """Takes room for items, and only then what `spend` takes for them."""

        def both(items: int) -> None:
            self.claim(items)
            spend(items)

        return both


class Admission:
    """Counts what is in flight. Lives on the event loop, so it needs no lock."""

    def __init__(self, room: Room, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes how much room there is, and what tells seconds."""
        self._room = room
        self._drain = Drain(clock)
        self.requests = 0
        self.items = 0
        self.bytes = 0

    @contextmanager
    def permit(self, size: int, items: int = 1) -> Iterator[Permit]:
        """Holds room for one request of so many bytes and, for a start, items.

        Raises:
            Overloaded: There is none.
        """
        if self.requests >= self._room.requests:
            raise self._full("requests", "GATEWAY_MAX_INFLIGHT", self._room.requests)
        # A request larger than all the room there is would otherwise never be let in.
        if self.requests and self.bytes + size > self._room.bytes:
            raise self._full("bytes", "GATEWAY_MAX_INFLIGHT_BYTES", self._room.bytes)
        if self.requests and self.items + items > self._room.items:
            raise self._full("items", "GATEWAY_MAX_INFLIGHT_ITEMS", self._room.items)
        self.requests += 1
        self.items += items
        self.bytes += size
        held, refused = Permit(self, items, size), False
        try:
            yield held
        except Overloaded:
            refused = True
            raise
        finally:
            self.requests -= 1
            self.items -= held.items
            self.bytes -= held.bytes
            if not refused:
                self._drain.add(held.items)

    def grow(self, permit: Permit, items: int) -> None:
        """See `Permit.claim`."""
        # Larger requests take turns with the others: half of the room is soon free.
        items = min(items, max(1, self._room.items // 2))
        more = items - permit.items
        others = self.items - permit.items
        if others and others + items > self._room.items:
            raise self._full("items", "GATEWAY_MAX_INFLIGHT_ITEMS", self._room.items)
        permit.items += more
        self.items += more

    @asynccontextmanager
    async def work(self, size: int, timeout_s: float) -> AsyncIterator[tuple[Deadline, Permit]]:
        """Holds a permit while a request is worked on, and ends it at its deadline.

        Raises:
            Overloaded: No permit is free.
            DeadlineExceeded: The request's time is over.
        """
        with self.permit(size) as permit:
            try:
                async with asyncio.timeout(timeout_s):
                    yield Deadline.after(timeout_s), permit
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the request was not answered within {timeout_s:g} seconds"
                ) from None

    def _full(self, what: str, setting: str, limit: int) -> Overloaded:
        return Overloaded(
            f"too much is in flight: the limit ({setting}) is {limit:,} {what}",
            retry_after_s=self._drain.seconds(self.items),
        )
