"""Encoders that Triton unloads while nobody uses them, and loads again for the next request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from gateway.errors import DeadlineExceeded, Unavailable
from gateway.inference.client import LATE, Encoder
from gateway.inference.control import ModelControl
from gateway.inference.server import Server

LOAD_S = 300.0  # for a load
FIRST_S = 5.0  # `retry-after` until a load has been timed
AGAIN_S = 1.0  # between a load that failed and the next attempt
SILENT = "no Triton says how many rows it ran; GATEWAY_TRITON_SECRET_FILE must hold Triton's secret"

logger = logging.getLogger(__name__)

Counts = tuple[int | None, ...]  # rows that each Triton has run; None: it is not loaded there


class Sleepers:
    """The encoders that are not loaded, and how long the others have been idle."""

    def __init__(self, load: Callable[[Encoder, float], Awaitable[None]], *, wait: bool) -> None:
        """At first, none is asleep.

        Args:
            load: Has every Triton load an encoder.
            wait: Whether a request waits for the encoder that it wakes; else it is refused.
        """
        self._load = load
        self._wait = wait
        self._idle: dict[Encoder, tuple[Counts, int]] = {}
        self._took_s: dict[str, float] = {}
        self._waking: dict[Encoder, asyncio.Task[bool]] = {}
        self.asleep: set[Encoder] = set()

    async def rest(
        self,
        control: ModelControl,
        servers: Sequence[Server],
        served: Collection[Encoder],
        looks: int,
    ) -> list[str]:
        """Have these servers unload idle encoders; see `InferClient.rest`."""
        problems = []
        for encoder in served:
            model, version = encoder.model, encoder.version
            rows = await asyncio.gather(*(control.rows(each, model) for each in servers))
            found = self.looks(encoder, tuple(each.get(version) for each in rows))
            # `release` unloads what is unused where other versions are loaded, too.
            loaded = [
                each for each, ran in zip(servers, rows, strict=True) if ran.keys() == {version}
            ]
            if not any(rows):
                asleep = [await control.asleep(each, model, version) for each in servers]
                if not any(asleep):
                    problems.append(f"{model}: {SILENT}")
            if found < looks or not loaded:
                continue
            logger.info("Triton unloads %s: nobody uses it", model)
            unloads = (control.unload(each, model) for each in loaded)
            outcomes = await asyncio.gather(*unloads, return_exceptions=True)
            problems += [str(each) for each in outcomes if isinstance(each, BaseException)]
            self.asleep.add(encoder)
        return problems

    def found(self, encoder: Encoder, *, asleep: bool) -> None:
        """Note whether an encoder is loaded nowhere."""
        if asleep:
            self.asleep.add(encoder)
        else:
            self.asleep.discard(encoder)

    def looks(self, encoder: Encoder, counts: Counts) -> int:
        """Note these counts; return how many looks in a row before this one found the same."""
        last, found = self._idle.get(encoder, (None, 0))
        found = found + 1 if counts == last else 0
        self._idle[encoder] = counts, found
        return found

    async def wake(self, encoder: Encoder, within: float) -> None:
        """Have an encoder loaded; requests at the same time share the load.

        Raises:
            DeadlineExceeded: It was not loaded in time; the load continues.
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
        if not task.result():
            # The cause may name addresses and files: it is in the log alone.
            raise Unavailable(
                f"{encoder.model} is not loaded, and loading it failed", retry_after_s=AGAIN_S
            )

    async def close(self) -> None:
        """Cancel the loads."""
        tasks = [*self._waking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _woken(self, encoder: Encoder) -> bool:
        """Load an encoder; return whether it is loaded."""
        loop = asyncio.get_running_loop()
        start, again_s = loop.time(), 0.0
        logger.info("Triton loads %s again, for a request", encoder.model)
        try:
            await self._load(encoder, LOAD_S)
            self._took_s[encoder.model] = loop.time() - start
            self.asleep.discard(encoder)
        except (Unavailable, TimeoutError) as error:
            again_s = AGAIN_S
            cause = str(error) or f"it was not loaded within {LOAD_S:g} s"
            logger.error("%s cannot be loaded for a request: %s", encoder.model, cause)
            return False
        finally:
            loop.call_later(again_s, self._waking.pop, encoder, None)
        return True
