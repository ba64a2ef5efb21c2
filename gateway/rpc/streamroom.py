"""The room of a stream: taken when it sends, and given back when it is silent."""

import asyncio
from collections.abc import Callable
from typing import Self

from gateway.admission.permits import Permit
from gateway.errors import Overloaded

SILENT_S = 1.0  # that a stream keeps its room for
RETRY_S = 0.1


class StreamRoom:
    """One permit, for as long as the stream has something to do."""

    def __init__(self, permit: Callable[[int], Permit], wait_s: float) -> None:
        """`permit` holds room for a window and more bytes; `wait_s` is the longest wait for it."""
        self._permit = permit
        self._wait_s = wait_s
        self._began = False
        self._held: Permit | None = None
        self._message_bytes = 0  # of the largest message, on top of the window
        self._resting: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    async def enter(self, size: int) -> None:
        """Take room for a message of this size in memory, in bytes.

        Raises:
            Overloaded: There is none: for the first message at once, for a later one after a while.
        """
        due = asyncio.get_running_loop().time() + self._wait_s
        while True:
            try:
                self._take(size)
            except Overloaded:
                if not self._began or asyncio.get_running_loop().time() > due:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                self._began = True
                self._stir()
                return

    def rest(self) -> None:
        """Say that nothing is left to do before the next message."""
        self._stir()
        self._resting = asyncio.get_running_loop().call_later(SILENT_S, self._leave)

    def _take(self, size: int) -> None:
        more = size - self._message_bytes
        if self._held is None:
            self._held = self._permit(size)
        elif more > 0:
            self._held.hold(more)
        self._message_bytes = max(size, self._message_bytes)

    def _stir(self) -> None:
        if self._resting:
            self._resting.cancel()

    def _leave(self) -> None:
        self._stir()
        if self._held:
            self._held.release()
        self._held, self._message_bytes = None, 0
