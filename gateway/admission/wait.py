"""How long what comes now will wait: measured from what was answered."""

import math
from collections import Counter
from collections.abc import Callable, Hashable
from itertools import islice
from time import monotonic
from typing import Generic, TypeVar

WINDOW_S = 10  # how far back rates look
SHORTEST_S, LONGEST_S = 1.0, 30.0  # what a client is told to wait at least, and at most
FEW_ITEMS = 16  # nobody is refused for having to wait behind fewer
LEAST_ITEMS = 1e-3  # so that a rate is never 0
FORGET_S = 60.0  # how long a rate is remembered while there is little to do

R = TypeVar("R", bound=Hashable)  # what stands for a request


class Queue(Generic[R]):
    """Requests that are worked on, in the order in which they came, and how long they will take.

    What is in the queue takes as long as its items at the rate at which items were done with. So
    that this is the rate at which somebody who comes last would see the queue move,

    - time counts only while at least `FEW_ITEMS` are there: with less to do, the rate would tell
      what was asked for, not what can be done;
    - an answer that overtakes more than half of the queue does not count: it did not wait for what
      the others wait for, as a text does not whose vector is known, while images do, nor one of a
      client that wants little;
    - a request that failed does not count either; the time that it took does.

    The rate begins as if what is there had been done at once, which time corrects, so that nobody
    is refused in the first moments; it does so again after `FORGET_S` with little to do.

    Clients take turns, so that what a client has there waits for as much of each of the others.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes what tells seconds."""
        self._rate = Rate(clock)
        self._requests: dict[R, tuple[int, str]] = {}  # their items and clients
        self._clients = Counter[str]()  # items
        self.items = 0

    def enter(self, request: R, items: int, client: str = "") -> None:
        """Puts a request at the end."""
        self._rate.passed(self.items)
        self._requests[request] = items, client
        self._clients[client] += items
        self.items += items

    def leave(self, request: R, *, answered: bool) -> None:
        """Takes a request out, if it is there; `answered`: it was worked on to its end."""
        if request not in self._requests:
            return
        self._rate.passed(self.items)
        waited = request in islice(self._requests, len(self._requests) // 2 + 1)
        items, client = self._requests.pop(request)
        self._clients[client] -= items
        if not self._clients[client]:
            del self._clients[client]
        if answered and waited and self.items >= FEW_ITEMS:
            self._rate.done += items
        self.items -= items

    def wait_s(self, client: str = "") -> float:
        """Seconds until a client's are done with; 0 where there is little, or too new to tell."""
        self._rate.passed(self.items)
        if self.items < FEW_ITEMS or not self._rate.seconds:
            return 0.0
        own = self._clients[client]
        before = sum(min(own, items) for items in self._clients.values())
        return before * self._rate.seconds / self._rate.done


class Rate:
    """What was done in which time; what is `WINDOW_S` old counts a third."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Takes what tells seconds."""
        self._clock = clock
        self._until = clock()  # up to when time has been counted, or left out
        self._busy = -math.inf  # when there was last enough to do
        self.done = self.seconds = 0.0

    def passed(self, items: int) -> None:
        """Counts the time since it was last told; so many items have been there since."""
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
    """How many items a second are done with, over the last seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
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
