"""Permits: a request without room is refused before any work.

Requests, items and bytes in flight are limited, which bounds memory. So is the expected wait, which
`gateway.admission.wait` estimates. No client may hold so much that no room is left for others.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from gateway.admission.wait import LONGEST_S, SHORTEST_S, Drain, WaitEstimator
from gateway.errors import Overloaded
from gateway.models.values import Cost

LARGE_ITEMS = 8  # a request with more items is large, and queues behind small ones
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
    bytes: int  # of bodies, pixels and answers
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

    def add(self, requests: int, small: int, large: int, size: int) -> None:
        """Add to what is held; `size` is in bytes, and negative numbers subtract."""
        self.requests += requests
        self.small += small
        self.large += large
        self.bytes += size


class Permit(Held):
    """The room that one request holds, given back at the end of its `with` block.

    It claims its items once they are known.
    """

    __slots__ = ("_admission", "background", "client", "wait")

    def __init__(self, admission: "Admission", client: str) -> None:
        super().__init__()
        self._admission = admission
        self.client = client
        self.background = False
        self.wait: WaitEstimator | None = None  # the one that it has entered

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.release(kind)

    def release(self, error: type[BaseException] | None = None) -> None:
        """Give all of it back; `error` is what the request ended in."""
        self._admission.release(self, error)

    def claim(self, items: int, images: int = 0) -> None:
        """Take room for all items of the request, `images` among them, before work on any begins.

        Raises:
            Overloaded: There is no room, or the expected wait is too long.
        """
        self._admission.claim(self, items, images)

    def charge(self, cost: Cost) -> None:
        """Claim all that a valid request costs. Raises Overloaded: as `claim` and `hold`."""
        self.claim(cost.items, cost.images)
        if cost.bytes:
            self.hold(cost.bytes)

    def hold(self, size: int) -> None:
        """Take room for more bytes, as they arrive or as they become larger.

        Raises:
            Overloaded: There is none. What this request holds already never refuses it.
        """
        self._admission.hold(self, size)


class Admission(Held):
    """Counts what is in flight. Runs on the event loop, so it needs no lock.

    A client may hold at most its share of the room, and no more than stays free for others. A
    client that is alone may hold all but one share, which stays free for the next client. A
    client's first request may take any room that is free; one of more bytes than all but one share
    is admitted when it is alone, and counts as that many.

    Texts and images have encoders of their own, and small requests go before large ones, so each of
    the four has a wait estimator; the load of the others shows in its rate. A request with texts
    and images waits for its images. A request enters an estimator once its items are known. Until
    then it is refused only if it would wait too long whatever its body holds. A stream is
    admitted in the same way and enters none, because it paces itself.
    """

    def __init__(self, room: Room, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._room = room
        self._drain = Drain(clock)
        self._clock = clock
        self._others = 0  # foreground requests in flight
        self._others_until = -math.inf  # when the last of them began or ended
        self._waits = {
            (images, large): WaitEstimator(clock)
            for images in (False, True)
            for large in (False, True)
        }
        self._clients = defaultdict[str, Held](Held)  # clients that hold room
        kept = int(room.share * room.bytes) if room.share < 1 else 0
        self._most_bytes = room.bytes - kept if kept else math.inf  # that one request counts as

    def arriving(self, size: int, *, client: str = "", images: bool | None = None) -> Permit:
        """The permit of a request that arrives: it holds bytes as they come, until it may `begin`.

        It is refused at once, as by `permit`, if a whole body of `size` bytes would find no room. A
        declared size takes no room before its bytes arrive.
        """
        permit = Permit(self, client)
        self._check_entry(permit, size, 1, images)
        return permit

    def permit(
        self, size: int, items: int = 1, *, client: str = "", images: bool | None = None,
        background: bool = False,
    ) -> Permit:  # fmt: skip
        """The permit of a request that has arrived, for a `with` block.

        Args:
            size: Bytes of its body.
            items: Texts and images, until `Permit.claim` gives their number.
            client: Who sent it, see `gateway.access.clients`.
            images: Whether it holds images, if that is known already.
            background: Whether no client waits for the answer; see `quiet_s`.

        Raises:
            Overloaded: There is no room, or the expected wait is too long.
        """
        permit = Permit(self, client)
        permit.background = background
        self.begin(permit, size, items, images=images)
        return permit

    def begin(
        self, permit: Permit, size: int = 0, items: int = 1, *, images: bool | None = None
    ) -> None:
        """Take the room of a request whose body has arrived; see `permit`."""
        self._check_entry(permit, size, items, images)
        self._take(permit, 1, items, 0, self._counted(permit, size))
        self._foreground(permit, 1)

    def claim(self, permit: Permit, items: int, images: int) -> None:
        """See `Permit.claim`."""
        room, mine = self._room, self._clients.get(permit.client, _NOTHING)
        others = self.items - permit.items
        small = large = 0
        if items > LARGE_ITEMS:
            pool = max(1, room.items // LARGE_PART)
            # The items of a very large request are not all in memory at a time.
            large = min(items, max(1, room.items // MOST_PART))
            self._check(_ITEMS, room.items, large, others=others)
            self._check(
                _LARGE, pool, large, others=self.large - permit.large,
                mine=mine.large - permit.large, shared=room.items,
            )  # fmt: skip
        else:
            small = min(items, room.items)
            self._check(_ITEMS, room.items, small, others=others, mine=mine.small - permit.small)
        if permit.wait is not None:
            permit.wait.leave(permit, answered=False)
        wait = self._waits[images > 0, items > LARGE_ITEMS]
        self._check_wait(wait.wait_s(permit.client))
        wait.enter(permit, images or items, permit.client)
        permit.wait = wait
        self._take(permit, 0, small - permit.small, large - permit.large, 0)

    def hold(self, permit: Permit, size: int) -> None:
        """See `Permit.hold`."""
        self._check_bytes(permit, size)
        self._take(permit, 0, 0, 0, self._counted(permit, size))

    def release(self, permit: Permit, error: type[BaseException] | None) -> None:
        """See `Permit.release`."""
        if permit.wait is not None:
            permit.wait.leave(permit, answered=error is None)
        if permit.requests:
            self._foreground(permit, -1)
        if permit.requests and not (error and issubclass(error, Overloaded)):
            self._drain.add(permit.items)
        if permit.requests or permit.bytes:
            self._take(permit, -permit.requests, -permit.small, -permit.large, -permit.bytes)
            mine = self._clients[permit.client]
            if not mine.requests and not mine.bytes:
                del self._clients[permit.client]

    def quiet_s(self) -> float:
        """Seconds since the last foreground request ended; 0 while one is in flight."""
        return 0.0 if self._others else self._clock() - self._others_until

    def _foreground(self, permit: Permit, more: int) -> None:
        if not permit.background:
            self._others += more
            self._others_until = self._clock()

    def _check_entry(self, permit: Permit, size: int, items: int, images: bool | None) -> None:
        room, mine = self._room, self._clients.get(permit.client, _NOTHING)
        self._check(_REQUESTS, room.requests, 1, others=self.requests, mine=mine.requests)
        if size:
            self._check_bytes(permit, size)
        self._check(_ITEMS, room.items, items, others=self.items, mine=mine.small)
        wait_s = self._waits[images is True, False].wait_s(permit.client)
        if wait_s and images is None:  # not yet known which of the two it needs
            wait_s = min(wait_s, self._waits[True, False].wait_s(permit.client))
        self._check_wait(wait_s)

    def _check_bytes(self, permit: Permit, size: int) -> None:
        mine = self._clients.get(permit.client, _NOTHING).bytes - permit.bytes
        others = self.bytes - permit.bytes
        self._check(_BYTES, self._room.bytes, size + permit.bytes, others=others, mine=mine)

    def _counted(self, permit: Permit, size: int) -> int:
        return int(min(size, self._most_bytes - permit.bytes))

    def _take(self, permit: Permit, requests: int, small: int, large: int, size: int) -> None:
        for held in (permit, self._clients[permit.client], self):
            held.add(requests, small, large, size)

    def _check(
        self, kind: tuple[str, str], limit: int, wanted: int, *,
        others: int, mine: int = 0, shared: int | None = None,
    ) -> None:  # fmt: skip
        """Refuse what does not fit, or is more than the client may hold.

        Args:
            kind: What is counted, and the setting of its limit.
            limit: How much of it may be in flight.
            wanted: How much the request would hold.
            others: How much all other requests hold.
            mine: How much of that the client's other requests hold.
            shared: What a client may have a share of, where it is not the limit.
        """
        what, setting = kind
        left = limit - others - wanted
        # A request larger than the whole room is admitted when it is alone.
        if others and left < 0:
            raise self._full(f"the limit ({setting}) is {limit:,} {what}")
        share = self._room.share
        if not mine or share >= 1:
            return
        if len(self._clients) == 1:  # alone: one share stays free for the next client
            over = left < int(share * limit)
        else:
            over = mine + wanted > min(share * (shared or limit), left)
        if over:
            raise self._full(
                f"this client may hold no more: of the {limit:,} {what}, a part stays free for "
                "others (GATEWAY_CLIENT_SHARE)"
            )

    def _check_wait(self, wait_s: float) -> None:
        limit = self._room.wait_s
        if wait_s > limit:
            raise Overloaded(
                f"the expected wait is {wait_s:.1f} seconds; the limit (GATEWAY_MAX_WAIT_S) is "
                f"{limit:g} seconds",
                retry_after_s=min(LONGEST_S, max(SHORTEST_S, wait_s)),
            )

    def _full(self, why: str) -> Overloaded:
        return Overloaded(
            f"too much is in flight: {why}", retry_after_s=self._drain.seconds(self.items)
        )


_NOTHING = Held()  # held by an unknown client
