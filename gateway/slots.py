"""Slots that owners share: none of them holds all for long."""

import asyncio
from collections import Counter
from collections.abc import Hashable


class Slots:
    """A fixed number of slots. Lives on the event loop, so it needs no lock.

    An owner takes a slot only while more are free than it holds: alone it holds half of them, and
    the next owner still finds some. A free slot goes to the waiting owner that holds the fewest,
    and among equals to the one whose last turn is the longest ago.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[Hashable] = Counter()
        # Of each owner that waits, its turns in order; the owner whose turn comes next is first.
        self._waiting: dict[Hashable, dict[asyncio.Future[None], None]] = {}

    async def take(self, owner: Hashable, within: float) -> None:
        """Takes a slot, which `give_back` frees.

        Args:
            owner: Whom it counts for.
            within: Seconds to wait for it at most.

        Raises:
            TimeoutError: The owner did not get one by then.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, {})[turn] = None
        self._share()
        try:
            async with asyncio.timeout(within):
                await turn
        except (TimeoutError, asyncio.CancelledError):
            if turn.cancelled():
                self._dequeue(owner, turn)
            else:  # it came in the moment in which nobody waited any more
                self.give_back(owner)
            raise

    def give_back(self, owner: Hashable) -> None:
        """Frees a slot that the owner holds."""
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._share()

    def _share(self) -> None:
        while owners := [each for each in self._waiting if self._held[each] < self._free]:
            owner = min(owners, key=self._held.__getitem__)
            turns = self._waiting.pop(owner)
            self._waiting[owner] = turns  # behind the others
            turn = next(iter(turns))
            self._dequeue(owner, turn)
            if not turn.cancelled():
                self._free -= 1
                self._held[owner] += 1
                turn.set_result(None)

    def _dequeue(self, owner: Hashable, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(owner, {})
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(owner, None)
