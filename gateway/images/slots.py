"""Slots that requests and clients share fairly."""

import asyncio
from collections import Counter

Owner = tuple[str, int]  # a client, and which of its requests


class Slots:
    """A fixed number of slots. Runs on the event loop, so it needs no lock.

    A request takes a slot only while more slots are free than it holds, so a single request holds
    at most half of them, and the next request finds some. A free slot goes to the waiting request
    whose client holds the fewest slots; among these to the one that holds the fewest itself, then
    to the one that has waited longest since its last turn.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[Owner | str] = Counter()  # by request, and by client
        # The futures of each waiting request, in order; the request with the next turn is first.
        self._waiting: dict[Owner, dict[asyncio.Future[None], None]] = {}

    async def take(self, owner: Owner, within: float) -> None:
        """Take a slot for a request, which `give_back` frees.

        Raises:
            TimeoutError: No slot was free within this number of seconds.
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
            else:  # the slot came just as the wait ended
                self.give_back(owner)
            raise

    def give_back(self, owner: Owner) -> None:
        """Free a slot that a request holds."""
        self._free += 1
        for holder in (owner, owner[0]):
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]
        self._share()

    def _share(self) -> None:
        while owners := [each for each in self._waiting if self._held[each] < self._free]:
            owner = min(owners, key=lambda each: (self._held[each[0]], self._held[each]))
            turns = self._waiting.pop(owner)
            self._waiting[owner] = turns  # behind the others
            turn = next(iter(turns))
            self._dequeue(owner, turn)
            if not turn.cancelled():
                self._free -= 1
                self._held.update((owner, owner[0]))
                turn.set_result(None)

    def _dequeue(self, owner: Owner, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(owner, {})
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(owner, None)
