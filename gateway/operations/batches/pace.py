"""The pace of batches: few lines at a time, with rests, while there are other requests."""

import asyncio
from collections.abc import Callable

LINES = 32  # of a batch at a time
GENTLE_LINES = 2  # while there are other requests
GENTLE_REST = 99.0  # times as long as the lines took
GENTLE_S = 1.0  # since the last other request
PATIENCE_S, TICK_S = 1.0, 0.005  # of a rest or wait at most, and between looks


class Pace:
    """How many lines of a batch run at a time, and the rests between them.

    While there are other requests, a batch begins few lines, in a moment without such requests, and
    then rests: it slows about one of a hundred of them. The wait and the rest have a limit, so that
    50,000 lines are done within a day all the same.
    """

    def __init__(self, quiet_s: Callable[[], float]) -> None:
        """`quiet_s` returns the seconds since the last other request; 0 while there is one."""
        self._quiet_s = quiet_s

    def lines(self) -> int:
        """The number of lines to begin."""
        return GENTLE_LINES if self._others() else LINES

    async def rest(self, took_s: float) -> None:
        """Rest after lines that took `took_s`; not at all without other requests."""
        if not self._others():
            return
        await asyncio.sleep(min(GENTLE_REST * took_s, PATIENCE_S))
        for _ in range(int(PATIENCE_S / TICK_S)):
            if self._quiet_s():
                return
            await asyncio.sleep(TICK_S)

    def _others(self) -> bool:
        return self._quiet_s() < GENTLE_S
