"""Memory that threads share: whoever finds no room waits, first come, first served."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Memory:
    """So many bytes for whatever is worked on at a time. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Holds so many bytes, all of them at most; waits until they are free.

        Those that want little do not pass those that want much, who would wait for ever.
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
