"""Estimates how long a new request will wait, from the rate at which requests were answered.

Small and large requests have an estimate each, because small ones go first. With one estimate for
both, a client whose request of 2,000 items is under way would have 95 % of its small requests
refused, though none of them waits (simulated: 20 items a second, limit 5 s).
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable
from itertools import islice
from time import monotonic

WINDOW_S = 10  # how far back rates look
SHORTEST_S, LONGEST_S = 1.0, 30.0  # bounds of `retry-after`
FEW_ITEMS = 16  # behind fewer items, no request is refused for its expected wait
LEAST_ITEMS = 1e-3  # keeps a rate above 0
FORGET_S = 60.0  # how long a rate is remembered while there is little to do


class WaitEstimator:
    """Estimates the wait behind the requests that are under way, kept in order of arrival.

    The wait is the number of items before a request, divided by the rate at which items are
    answered. The rate must be the one that the last request in the queue would see, so

    - time counts only while at least `FEW_ITEMS` are there: with less to do, the rate would be
      that of the demand, not that of the encoder;
    - an answer that overtakes more than half of the queue does not count, since it did not wait as
      the others do: a text whose vector is cached, or a request of a client with little work;
    - a request that failed does not count as answered, but its time counts.

    At the start, and after `FORGET_S` with little to do, the rate is unknown. It then begins as if
    all items had been answered at once, and time corrects it, so no request is refused in the
    first moments.

    Clients take turns, so a client waits for as many items of each other client as it has itself.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start empty; `clock` returns seconds."""
        self._rate = Rate(clock)
        self._requests: dict[Hashable, tuple[int, str]] = {}  # their items and clients
        self._clients = Counter[str]()  # items
        self.items = 0

    def enter(self, request: Hashable, items: int, client: str = "") -> None:
        """Add a request at the end."""
        self._rate.advance(self.items)
        self._requests[request] = items, client
        self._clients[client] += items
        self.items += items

    def leave(self, request: Hashable, *, answered: bool) -> None:
        """Remove a request, if it is there; `answered`: it succeeded."""
        if request not in self._requests:
            return
        self._rate.advance(self.items)
        waited = request in islice(self._requests, len(self._requests) // 2 + 1)
        items, client = self._requests.pop(request)
        self._clients[client] -= items
        if not self._clients[client]:
            del self._clients[client]
        if answered and waited and self.items >= FEW_ITEMS:
            self._rate.done += items
        self.items -= items

    def wait_s(self, client: str = "") -> float:
        """Seconds until a client's items are answered; 0 while there are few, or no rate yet."""
        self._rate.advance(self.items)
        if self.items < FEW_ITEMS or not self._rate.seconds:
            return 0.0
        own = self._clients[client]
        before = sum(min(own, items) for items in self._clients.values())
        return before * self._rate.seconds / self._rate.done


class Rate:
    """Items answered and the time that this took; both fade, to a third after `WINDOW_S`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without a rate; `clock` returns seconds."""
        self._clock = clock
        self._until = clock()  # the moment up to which time is counted, or left out
        self._busy = -math.inf  # when there was last enough load
        self.done = self.seconds = 0.0

    def advance(self, items: int) -> None:
        """Count the time since the last call, during which `items` were there."""
        since, self._until = self._until, self._clock()
        if items < FEW_ITEMS:
            return
        if since - self._busy > FORGET_S:
            self.done, self.seconds = float(items), 0.0
        faded = math.exp((since - self._until) / WINDOW_S)
        self.done = max(LEAST_ITEMS, self.done * faded)
        self.seconds = self.seconds * faded + WINDOW_S * (1 - faded)
        self._busy = self._until


class Drain:
    """The number of items finished each second, over the last `WINDOW_S` seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Start with no item; `clock` returns seconds."""
        self._clock = clock
        self._begun = clock()
        self._done: Counter[int] = Counter()  # items by second

    def add(self, items: int) -> None:
        """Count items that are finished now."""
        self._forget()
        self._done[int(self._clock())] += items

    def seconds(self, items: int) -> float:
        """The time that `items` take at this rate, within the bounds of `retry-after`."""
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
