"""Permits and deadlines: a request without room is refused before any work.

Room is counted in requests, items and bytes, which bounds memory, and in time: who would wait too
long behind the others is refused as well, which is measured in `gateway.waiting`.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.values import Deadline, Spend
from gateway.waiting import LONGEST_S, SHORTEST_S, Drain, Queue

LARGE_ITEMS = 32  # a request of more goes behind the smaller ones


@dataclass(frozen=True, slots=True)
class Room:
    """How much is worked on at a time."""

    requests: int  # a stream counts as one
    items: int  # texts and images
    bytes: int  # of bodies
    wait_s: float = math.inf  # seconds that a request may have to wait for those before it


class Permit:
    """Room for one request. Its items are claimed once they are known."""

    def __init__(self, admission: "Admission", items: int, size: int) -> None:
        """Takes what is counted already."""
        self._admission = admission
        self.items = items
        self.bytes = size

    def claim(self, items: int, images: int = 0) -> None:
        """Takes room for all the items of the request, before any of them is worked on.

        Args:
            items: Texts and images.
            images: How many of them are images.

        Raises:
            Overloaded: There is none, or what came before takes too long.
        """
        self._admission.grow(self, items, images)

    def hold(self, size: int) -> None:
        """Takes room for so many bytes more, as they arrive or as they become larger.

        Raises:
            Overloaded: There is none. What this request holds already never refuses it.
        """
        self._admission.hold(self, size)

    def before(self, spend: Spend) -> Spend:
        """Takes room for items, and only then what `spend` takes for them."""

        def both(items: int, images: int) -> None:
            self.claim(items, images)
            spend(items, images)

        return both


class Admission:
    """Counts what is in flight. Lives on the event loop, so it needs no lock.

    Texts and images wait for encoders of their own, and small requests go before large ones, so
    each has a queue of its own; what the others take of the machine shows in its rate. A request
    with both waits for its images. Who is still reading a body is in none: such a request is
    refused at once only where all that it may turn out to be would wait too long. A stream paces
    itself: it is let in likewise, and nobody waits for its window.
    """

    def __init__(self, room: Room, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes how much room there is, and what tells seconds."""
        self._room = room
        self._drain = Drain(clock)
        self._queues = {
            (images, large): Queue[Permit](clock)
            for images in (False, True)
            for large in (False, True)
        }
        self.requests = 0
        self.items = 0
        self.bytes = 0

    @contextmanager
    def permit(self, size: int, items: int = 1, *, images: bool | None = None) -> Iterator[Permit]:
        """Holds room for one request of so many bytes and, for a start, items.

        Args:
            size: Of its body, in bytes.
            items: Texts and images.
            images: Whether it holds images, if that is known already.

        Raises:
            Overloaded: There is none, or what came before takes too long.
        """
        if self.requests >= self._room.requests:
            raise self._full("requests", "GATEWAY_MAX_INFLIGHT", self._room.requests)
        # A request larger than all the room there is would otherwise never be let in.
        if self.requests and self.bytes + size > self._room.bytes:
            raise self._full("bytes", "GATEWAY_MAX_INFLIGHT_BYTES", self._room.bytes)
        if self.requests and self.items + items > self._room.items:
            raise self._full("items", "GATEWAY_MAX_INFLIGHT_ITEMS", self._room.items)
        likely = (False, True) if images is None else (images,)
        self._check_wait(*(self._queues[each, False] for each in likely))
        self.requests += 1
        self.items += items
        self.bytes += size
        held, refused, answered = Permit(self, items, size), False, False
        try:
            yield held
            answered = True
        except Overloaded:
            refused = True
            raise
        finally:
            self._leave(held, answered=answered)
            self.requests -= 1
            self.items -= held.items
            self.bytes -= held.bytes
            if not refused:
                self._drain.add(held.items)

    def grow(self, permit: Permit, items: int, images: int) -> None:
        """See `Permit.claim`."""
        asked = items
        # Larger requests take turns with the others: half of the room is soon free.
        items = min(items, max(1, self._room.items // 2))
        more = items - permit.items
        others = self.items - permit.items
        if others and others + items > self._room.items:
            raise self._full("items", "GATEWAY_MAX_INFLIGHT_ITEMS", self._room.items)
        self._queue(permit, asked, images)
        permit.items += more
        self.items += more

    def hold(self, permit: Permit, size: int) -> None:
        """See `Permit.hold`."""
        others = self.bytes - permit.bytes
        if others and self.bytes + size > self._room.bytes:
            raise self._full("bytes", "GATEWAY_MAX_INFLIGHT_BYTES", self._room.bytes)
        permit.bytes += size
        self.bytes += size

    def _queue(self, permit: Permit, items: int, images: int) -> None:
        """Puts a request where it belongs, unless it would wait too long there."""
        self._leave(permit, answered=False)
        queue = self._queues[images > 0, items > LARGE_ITEMS]
        self._check_wait(queue)
        queue.enter(permit, images or items)

    def _leave(self, permit: Permit, *, answered: bool) -> None:
        for queue in self._queues.values():
            queue.leave(permit, answered=answered)

    def _check_wait(self, *queues: Queue[Permit]) -> None:
        wait_s, limit = min(queue.wait_s() for queue in queues), self._room.wait_s
        if wait_s > limit:
            raise Overloaded(
                f"what came before takes {wait_s:.1f} seconds: the limit (GATEWAY_MAX_WAIT_S) is "
                f"{limit:g} seconds",
                retry_after_s=min(LONGEST_S, max(SHORTEST_S, wait_s)),
            )

    @asynccontextmanager
    async def work(
        self, size: int, timeout_s: float, *, images: bool | None = None
    ) -> AsyncIterator[tuple[Deadline, Permit]]:
        """Holds a permit while a request is worked on, and ends it at its deadline.

        Raises:
            Overloaded: As `permit`, whose arguments these are.
            DeadlineExceeded: The request's time is over.
        """
        with self.permit(size, images=images) as permit:
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
