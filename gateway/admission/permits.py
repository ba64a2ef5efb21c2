"""Permits and deadlines: a request without room is refused before any work.

Requests, items and bytes in flight are limited, which bounds memory. So is the expected wait, which
`gateway.admission.wait` estimates. No client may hold so much that others find no room.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.admission.wait import LONGEST_S, SHORTEST_S, Drain, WaitEstimator
from gateway.errors import DeadlineExceeded, Overloaded
from gateway.models.values import Deadline

LARGE_ITEMS = 8  # a request with more items is large, and goes behind the small ones
LARGE_PART = 2  # large requests together may hold 1 / LARGE_PART of the items
MOST_PART = 8  # one of them counts for at most 1 / MOST_PART of the items

# What is counted, and the setting of its limit.
_REQUESTS = "requests", "GATEWAY_MAX_INFLIGHT"
_BYTES = "bytes", "GATEWAY_MAX_INFLIGHT_BYTES"
_ITEMS = "items", "GATEWAY_MAX_INFLIGHT_ITEMS"
_LARGE = "items of large requests", "half of GATEWAY_MAX_INFLIGHT_ITEMS"


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be in flight at a time."""

    requests: int  # a stream counts as one
    items: int  # texts and images
    bytes: int  # of bodies
    wait_s: float = math.inf  # longest expected wait, in seconds
    share: float = 1.0  # of the room, for one client while others hold some


@dataclass(slots=True, eq=False)
class Held:
    """The room that a request, a client, or all requests hold."""

    requests: int = 0
    small: int = 0  # items of small requests
    large: int = 0  # items of large requests
    bytes: int = 0

    @property
    def items(self) -> int:
        """Items of small and large requests together."""
        return self.small + self.large

    def add(self, other: "Held", sign: int = 1) -> None:
        """Adds what another holds; with -1 subtracts it."""
        self.requests += sign * other.requests
        self.small += sign * other.small
        self.large += sign * other.large
        self.bytes += sign * other.bytes


class Permit(Held):
    """The room that one request holds. It claims its items once they are known."""

    def __init__(self, admission: "Admission", client: str) -> None:
        """Starts with nothing held."""
        super().__init__()
        self._admission = admission
        self.client = client

    def claim(self, items: int, images: int = 0) -> None:
        """Takes room for all items of the request, before work on any of them begins.

        Args:
            items: Texts and images.
            images: The number of images among them.

        Raises:
            Overloaded: There is no room, or the expected wait is too long.
        """
        self._admission.grow(self, items, images)

    def hold(self, size: int) -> None:
        """Takes room for more bytes, as they arrive or as they become larger.

        Raises:
            Overloaded: There is none. What this request holds already never refuses it.
        """
        self._admission.hold(self, size)


class Admission(Held):
    """Counts what is in flight. Runs on the event loop, so it needs no lock.

    A client may hold at most its share of the room, and no more than stays free for others. A
    client that is alone may hold all but one share, which stays free for the next client. A
    client's first request may take any room that is free.

    Texts and images have encoders of their own, and small requests go before large ones, so each of
    the four has a wait estimator; the load of the others shows in its rate. A request with texts
    and images waits for its images. A request enters an estimator once its items are known. Until
    then it is refused only if it would wait too long whatever its body holds. A stream is
    admitted in the same way and enters none, because it paces itself.
    """

    def __init__(self, room: Room, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts with nothing in flight; `clock` returns seconds."""
        super().__init__()
        self._room = room
        self._drain = Drain(clock)
        self._waits = {
            (images, large): WaitEstimator[Permit](clock)
            for images in (False, True)
            for large in (False, True)
        }
        self._clients = defaultdict[str, Held](Held)  # those that hold something

    @contextmanager
    def arriving(
        self, size: int, *, client: str = "", images: bool | None = None
    ) -> Iterator[Permit]:
        """Counts the bytes of a request while it arrives, before work on it begins.

        It is refused at once if its whole body would find no room. A declared size takes no room
        before its bytes arrive.

        Args:
            size: The largest size that its body may have, as far as that is known.
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
        """Holds room for one request.

        Args:
            size: Bytes of its body.
            items: Texts and images, until `Permit.claim` gives their number.
            client: Who sent it, see `gateway.access.clients`.
            images: Whether it holds images, if that is known already.

        Raises:
            Overloaded: There is no room, or the expected wait is too long.
        """
        permit = Permit(self, client)
        with self._given_back(permit), self.working(permit, size, items, images=images):
            yield permit

    @contextmanager
    def working(
        self, permit: Permit, size: int = 0, items: int = 1, *, images: bool | None = None
    ) -> Iterator[None]:
        """Holds room for a request whose bytes have arrived; see `arriving` and `permit`.

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
        """Gives back all that a request holds when the block ends."""
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
        self._check_wait(permit.client, *(self._waits[each, False] for each in likely))

    def grow(self, permit: Permit, items: int, images: int) -> None:
        """See `Permit.claim`."""
        others, mine = self.items - permit.items, self._of(permit)
        if items > LARGE_ITEMS:
            pool = max(1, self._room.items // LARGE_PART)
            # The items of a very large request are not all in memory at a time.
            wanted = Held(large=min(items, max(1, self._room.items // MOST_PART)))
            self._check(_ITEMS, self._room.items, wanted.large, others)
            large = self.large - permit.large
            self._check(_LARGE, pool, wanted.large, large, mine.large, self._room.items)
        else:
            wanted = Held(small=min(items, self._room.items))
            self._check(_ITEMS, self._room.items, wanted.small, others, mine.small)
        self._enter_wait(permit, items, images)
        wanted.add(Held(small=permit.small, large=permit.large), -1)
        self._take(permit, wanted)

    def hold(self, permit: Permit, size: int) -> None:
        """See `Permit.hold`."""
        size += permit.bytes
        others = self.bytes - permit.bytes
        self._check(_BYTES, self._room.bytes, size, others, self._of(permit).bytes)
        self._take(permit, Held(bytes=size - permit.bytes))

    def _of(self, permit: Permit) -> Held:
        """What its client holds without this request."""
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
        """Refuses what does not fit, or is more than the client may hold.

        Args:
            kind: What is counted, and the setting of its limit.
            limit: The most that all requests may hold.
            wanted: What this request will hold.
            others: What all other requests hold.
            mine: What the client's other requests hold.
            of: The amount that the client's share is a part of; 0: the limit.
        """
        what, setting = kind
        left = limit - others - wanted
        # A request larger than the whole room is admitted when it is alone.
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

    def _enter_wait(self, permit: Permit, items: int, images: int) -> None:
        """Enters a request into its wait estimator, unless it would wait too long."""
        self._leave(permit, answered=False)
        wait = self._waits[images > 0, items > LARGE_ITEMS]
        self._check_wait(permit.client, wait)
        wait.enter(permit, images or items, permit.client)

    def _leave(self, permit: Permit, *, answered: bool) -> None:
        for wait in self._waits.values():
            wait.leave(permit, answered=answered)

    def _check_wait(self, client: str, *waits: WaitEstimator[Permit]) -> None:
        wait_s, limit = min(wait.wait_s(client) for wait in waits), self._room.wait_s
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
        """Holds a permit for a request, and ends the request at its deadline.

        Raises:
            Overloaded: As `permit`, whose arguments these are.
            DeadlineExceeded: The deadline has passed.
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
    """Cancels the block after `timeout_s` seconds.

    Raises:
        DeadlineExceeded: The deadline has passed.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield Deadline.after(timeout_s)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the request was not answered within {timeout_s:g} seconds"
        ) from None
