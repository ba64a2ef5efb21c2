"""Encoders that Triton has unloaded because nobody used them; a request has one loaded again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.errors import DeadlineExceeded, Unavailable
from gateway.inference.client import LATE, Encoder

LOAD_S = 300.0
FIRST_S = 5.0  # `retry-after` until a load has been timed
AGAIN_S = 1.0  # after a load that failed, before the next

logger = logging.getLogger(__name__)

Counts = tuple[int | None, ...]  # of rows that each Triton has run; None: it is not loaded there


class Sleepers:
    """The encoders that are not loaded, and how long each of the others has been idle."""

    def __init__(self, load: Callable[[Encoder, float], Awaitable[None]], *, wait: bool) -> None:
        """None sleeps so far.

        Args:
            load: Has every Triton load an encoder.
            wait: Whether the request that wakes one waits for it; else it is refused.
        """
        self._load = load
        self._wait = wait
        self._idle: dict[Encoder, tuple[Counts, int]] = {}
        self._took_s: dict[str, float] = {}
        self._waking: dict[Encoder, asyncio.Task[str]] = {}
        self.asleep: set[Encoder] = set()

    def looks(self, encoder: Encoder, counts: Counts) -> int:
        """The number of looks in a row that found these counts, before this one."""
        last, found = self._idle.get(encoder, (None, 0))
        found = found + 1 if counts == last else 0
        self._idle[encoder] = counts, found
        return found

    async def wake(self, encoder: Encoder, within: float) -> None:
        """Have an encoder loaded; requests at the same time share the load.

        Raises:
            DeadlineExceeded: It was not loaded in time, and is still being loaded.
            Unavailable: It cannot be loaded; or requests do not wait, and it is being loaded.
        """
        task = self._waking.get(encoder)
        if task is None:
            task = self._waking[encoder] = asyncio.create_task(self._woken(encoder))
        if not self._wait:
            raise Unavailable(
                f"{encoder.model} was not in use, and is being loaded",
                retry_after_s=self._took_s.get(encoder.model, FIRST_S),
            )
        done, _ = await asyncio.wait({task}, timeout=within)
        if not done:
            raise DeadlineExceeded(LATE)
        if problem := task.result():
            raise Unavailable(problem, retry_after_s=AGAIN_S)

    async def close(self) -> None:
        """Cancel the loads."""
        tasks = [*self._waking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _woken(self, encoder: Encoder) -> str:
        """Load an encoder; return what went wrong."""
        loop = asyncio.get_running_loop()
        start, again_s, problem = loop.time(), 0.0, ""
        logger.info("%s is asked for, and loaded again", encoder.model)
        try:
            await self._load(encoder, LOAD_S)
            self._took_s[encoder.model] = loop.time() - start
            self.asleep.discard(encoder)
        except (Unavailable, TimeoutError) as error:
            again_s = AGAIN_S
            problem = str(error) or f"{encoder.model} was not loaded within {LOAD_S:g} s"
            logger.error("%s", problem)
        finally:
            loop.call_later(again_s, self._waking.pop, encoder, None)
        return problem
