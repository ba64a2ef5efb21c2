"""Permits and deadlines: a request without room is refused before any work.

Room is counted in requests, items and bytes, which bounds memory, and in time: who would wait too
long behind the others is refused as well, which is measured in `gateway.admission.wait`. No
client may hold so much of it that others find none.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.admission.wait import LONGEST_S, SHORTEST_S, Drain, Queue
from gateway.errors import DeadlineExceeded, Overloaded
from gateway.models.values import Deadline, Spend

LARGE_ITEMS = 8  # a request of more goes behind the smaller ones
LARGE_PART = 2  # large requests have one in so many of the items among them
MOST_PART = 8  # and none of them counts for more than one in so many

# What is counted, and the setting of its limit.
_REQUESTS = "requests", "GATEWAY_MAX_INFLIGHT"
_BYTES = "bytes", "GATEWAY_MAX_INFLIGHT_BYTES"
_ITEMS = "items", "GATEWAY_MAX_INFLIGHT_ITEMS"
_LARGE = "items of large requests", "half of GATEWAY_MAX_INFLIGHT_ITEMS"


@dataclass(frozen=True, slots=True)
class Room:
    """How much is worked on at a time."""

    requests: int  # a stream counts as one
    items: int  # texts and images
    bytes: int  # of bodies
    wait_s: float = math.inf  # seconds that a request may have to wait for those before it
    share: float = 1.0  # of it, that one client may hold while others hold some


@dataclass(slots=True, eq=False)
class Held:
    """Room that is taken: by a request, by a client, or by all."""

    requests: int = 0
    small: int = 0  # items of requests with few
    large: int = 0  # and of those with many
    bytes: int = 0

    @property
    def items(self) -> int:
        """Of all requests."""
        return self.small + self.large

    def add(self, other: "Held", sign: int = 1) -> None:
        """Takes what another takes, or with -1 gives it back."""
        self.requests += sign * other.requests
        self.small += sign * other.small
        self.large += sign * other.large
        self.bytes += sign * other.bytes


class Permit(Held):
    """Room for one request. Its items are claimed once they are known."""

    def __init__(self, admission: "Admission", client: str) -> None:
        """Holds nothing yet."""
        super().__init__()
        self._admission = admission
        self.client = client

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


class Admission(Held):
    """Counts what is in flight. Lives on the event loop, so it needs no lock.

    A client may hold its share and no more than stays free for others; while it is alone, it only
    leaves a share free for whoever comes. Its first request finds room wherever there is some.

    Texts and images wait for encoders of their own, and small requests go before large ones, so
    each has a queue of its own; what the others take of the machine shows in its rate. A request
    with both waits for its images. Who is still reading a body is in none: such a request is
    refused at once only where all that it may turn out to be would wait too long. A stream paces
    itself: it is let in likewise, and nobody waits for its window.
    """

    def __init__(self, room: Room, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes how much room there is, and what tells seconds."""
        super().__init__()
        self._room = room
        self._drain = Drain(clock)
        self._queues = {
            (images, large): Queue[Permit](clock)
            for images in (False, True)
            for large in (False, True)
        }
        self._clients = defaultdict[str, Held](Held)  # those who hold something

    @contextmanager
    def arriving(
        self, size: int, *, client: str = "", images: bool | None = None
    ) -> Iterator[Permit]:
        """Counts the bytes of a request that arrives, and is not worked on yet.

        It is refused at once where it would not be let in if all of it were there. For a client
        that declares much and sends nothing, nothing is counted.

        Args:
            size: What its body may take, as far as that is known.
            client: As for `permit`.
            images: As for `permit`.

        Raises:
            Overloaded: As `permit`.
        """
        permit = Permit(self, client)
        self._check_entry(permit, size, 1, images)
        with self._given_back(permit):
            yield permit

    @contextmanager
    def permit(
        self, size: int, items: int = 1, *, client: str = "", images: bool | None = None
    ) -> Iterator[Permit]:
        """Holds room for one request of so many bytes and, for a start, items.

        Args:
            size: Of its body, in bytes.
            items: Texts and images.
            client: Whose it is, see `gateway.access.clients`.
            images: Whether it holds images, if that is known already.

        Raises:
            Overloaded: There is none, or what came before takes too long.
        """
        permit = Permit(self, client)
        with self._given_back(permit), self.working(permit, size, items, images=images):
            yield permit

    @contextmanager
    def working(
        self, permit: Permit, size: int = 0, items: int = 1, *, images: bool | None = None
    ) -> Iterator[None]:
        """Works on a request that is there, such as one that was `arriving`; see `permit`.

        Raises:
            Overloaded: As `permit`.
        """
        self._check_entry(permit, size, items, images)
        self._take(permit, Held(1, items, 0, size))
        refused, answered = False, False
        try:
            yield
            answered = True
        except Overloaded:
            refused = True
            raise
        finally:
            self._leave(permit, answered=answered)
            if not refused:
                self._drain.add(permit.items)

    @contextmanager
    def _given_back(self, permit: Permit) -> Iterator[None]:
        """Gives back what a request holds at its end."""
        try:
            yield
        finally:
            mine = self._clients[permit.client]
            self.add(permit, -1)
            mine.add(permit, -1)
            if not mine.requests and not mine.bytes:
                del self._clients[permit.client]

    def _check_entry(self, permit: Permit, size: int, items: int, images: bool | None) -> None:
        mine = self._of(permit)
        self._check(_REQUESTS, self._room.requests, 1, self.requests, mine.requests)
        if size:
            self._check(_BYTES, self._room.bytes, size, self.bytes, mine.bytes)
        self._check(_ITEMS, self._room.items, items, self.items, mine.small)
        likely = (False, True) if images is None else (images,)
        self._check_wait(permit.client, *(self._queues[each, False] for each in likely))

    def grow(self, permit: Permit, items: int, images: int) -> None:
        """See `Permit.claim`."""
        others, mine = self.items - permit.items, self._of(permit)
        if items > LARGE_ITEMS:
            pool = max(1, self._room.items // LARGE_PART)
            # Not all of very many are there at a time.
            wanted = Held(large=min(items, max(1, self._room.items // MOST_PART)))
            self._check(_ITEMS, self._room.items, wanted.large, others)
            large = self.large - permit.large
            self._check(_LARGE, pool, wanted.large, large, mine.large, self._room.items)
        else:
            wanted = Held(small=min(items, self._room.items))
            self._check(_ITEMS, self._room.items, wanted.small, others, mine.small)
        self._queue(permit, items, images)
        wanted.add(Held(small=permit.small, large=permit.large), -1)
        self._take(permit, wanted)

    def hold(self, permit: Permit, size: int) -> None:
        """See `Permit.hold`."""
        size += permit.bytes
        others = self.bytes - permit.bytes
        self._check(_BYTES, self._room.bytes, size, others, self._of(permit).bytes)
        self._take(permit, Held(bytes=size - permit.bytes))

    def _of(self, permit: Permit) -> Held:
        """What its client holds beside it."""
        held = Held()
        held.add(self._clients.get(permit.client, held))
        held.add(permit, -1)
        return held

    def _take(self, permit: Permit, more: Held) -> None:
        for held in (permit, self._clients[permit.client], self):
            held.add(more)

    def _check(
        self,
        kind: tuple[str, str],
        limit: int,
        wanted: int,
        others: int,
        mine: int = 0,
        of: int = 0,
    ) -> None:
        """Refuses what does not fit, or is more than its client may have.

        Args:
            kind: What is counted, and the setting of its limit.
            limit: Of it.
            wanted: By this request, with what it holds.
            others: What all other requests hold.
            mine: Those of its client among them.
            of: What the client may have a share of; the limit, where it is 0.
        """
        what, setting = kind
        left = limit - others - wanted
        # A request larger than all the room there is would otherwise never be let in.
        if others and left < 0:
            raise self._full(f"the limit ({setting}) is {limit:,} {what}")
        share = self._room.share
        if not mine or share >= 1:
            return
        alone = len(self._clients) == 1
        if left < int(share * limit) if alone else mine + wanted > min(share * (of or limit), left):
            raise self._full(
                f"so much of one client: of the {limit:,} {what} the rest (GATEWAY_CLIENT_SHARE) "
                "is for others"
            )

    def _queue(self, permit: Permit, items: int, images: int) -> None:
        """Puts a request where it belongs, unless it would wait too long there."""
        self._leave(permit, answered=False)
        queue = self._queues[images > 0, items > LARGE_ITEMS]
        self._check_wait(permit.client, queue)
        queue.enter(permit, images or items, permit.client)

    def _leave(self, permit: Permit, *, answered: bool) -> None:
        for queue in self._queues.values():
            queue.leave(permit, answered=answered)

    def _check_wait(self, client: str, *queues: Queue[Permit]) -> None:
        wait_s, limit = min(queue.wait_s(client) for queue in queues), self._room.wait_s
        if wait_s > limit:
            raise Overloaded(
                f"what came before takes {wait_s:.1f} seconds: the limit (GATEWAY_MAX_WAIT_S) is "
                f"{limit:g} seconds",
                retry_after_s=min(LONGEST_S, max(SHORTEST_S, wait_s)),
            )

    @asynccontextmanager
    async def work(
        self, size: int, timeout_s: float, client: str = "", *, images: bool | None = None
    ) -> AsyncIterator[tuple[Deadline, Permit]]:
        """Holds a permit while a request is worked on, and ends it at its deadline.

        Raises:
            Overloaded: As `permit`, whose arguments these are.
            DeadlineExceeded: The request's time is over.
        """
        with self.permit(size, client=client, images=images) as permit:
            async with within(timeout_s) as deadline:
                yield deadline, permit

    def _full(self, why: str) -> Overloaded:
        return Overloaded(
            f"too much is in flight: {why}", retry_after_s=self._drain.seconds(self.items)
        )


@asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[Deadline]:
    """Ends what is done inside when its time is over.

    Raises:
        DeadlineExceeded: It is.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield Deadline.after(timeout_s)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the request was not answered within {timeout_s:g} seconds"
        ) from None
