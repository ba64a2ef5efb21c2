"""A memory budget for threads: a thread waits until there is room, first come, first served."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """A number of bytes that threads share. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and hold them; more than the budget, alone.

        First come, first served: a small request never overtakes a large one.
        """
        size = min(size, self._size)
        me = object()
        with self._changed:
            self._waiting.append(me)
            self._changed.wait_for(
                lambda: self._waiting[0] is me and self._used + size <= self._size
            )
            self._waiting.popleft()
            self._used += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()
