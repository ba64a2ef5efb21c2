"""Readiness: check a golden vector through every encoder."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from gateway.errors import GatewayError
from gateway.inference.client import WRONG, Encoder, InferClient
from gateway.inference.encoders import encoders_of
from gateway.models.registry import Model, Models
from gateway.pipeline.classifiers import Classifiers

FRESH_S = 1.0  # for which the result of a check is reused
TIMEOUT_S = 5.0
PATIENCE_S = 2.0  # after which the last result stands: a model that hangs delays no probe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """The state of one model."""

    default: bool  # whether it serves requests that name no model
    problems: tuple[str, ...]  # one line per encoder or label set; none where it is ready
    asleep: bool = False  # whether an encoder is not loaded, since nobody used it

    @property
    def ready(self) -> bool:
        """Whether the model gives right answers."""
        return not self.problems


@dataclass(slots=True)
class _Check:
    """The checks of one model, one at a time."""

    model: Model
    problems: tuple[str, ...]  # found by the last one that ended
    task: "asyncio.Task[None] | None" = None  # the last one
    ended: float = -FRESH_S


class Readiness:
    """Checks every encoder of every model; callers at the same time share one check."""

    def __init__(
        self,
        models: Models,
        client: InferClient,
        classifiers: Classifiers,
        wrong: Callable[[str], None] = lambda fingerprint: None,
        *,
        every: bool = False,
        on_states: Callable[[Mapping[str, bool]], None] = lambda ready: None,
    ) -> None:
        """Build the check; nothing runs yet.

        Args:
            models: What is served.
            client: Runs the golden inputs.
            classifiers: Knows which label sets are not encoded yet.
            wrong: Called with a model's fingerprint when another model answers in its place.
            every: Whether the gateway is ready only when all models are.
            on_states: Called with which models are ready after each look at them.
        """
        self._models = models
        self._client = client
        self._classifiers = classifiers
        self._wrong = wrong
        self._every = every
        self._on_states = on_states
        self._checks: dict[str, _Check] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def states(self) -> dict[str, State]:
        """The state of each served model, by its id."""
        checks = [self._check(model) for model in self._models]
        tasks = [check.task for check in checks if check.task is not None]
        done, _ = await asyncio.wait(tasks, timeout=PATIENCE_S) if tasks else ((), ())
        for task in done:
            task.result()  # raises where the check itself failed
        states = {
            check.model.manifest.id: State(
                self._models.is_default(check.model.manifest.id),
                (*check.problems, *self._classifiers.waiting(check.model)),
                any(map(self._client.asleep, encoders_of(check.model.manifest))),
            )
            for check in checks
        }
        self._on_states({model_id: state.ready for model_id, state in states.items()})
        return states

    def verdict(self, states: Mapping[str, State]) -> list[str]:
        """The reasons why the gateway is not ready, one line each; empty when it is.

        It is ready when the default model is; without a default, when any is; with `every`, when
        all are.
        """
        if not states:
            return ["no model is served"]
        needed = [each for each in states.values() if self._every or each.default]
        if not needed and any(each.ready for each in states.values()):
            return []
        return [problem for each in needed or states.values() for problem in each.problems]

    async def problems(self) -> list[str]:
        """See `verdict`."""
        return self.verdict(await self.states())

    async def reached(self) -> None:
        """Return once `verdict` finds nothing wrong."""
        before: list[str] = []
        while problems := await self.problems():
            if problems != before:
                logger.warning("not serving yet: %s", "; ".join(problems))
                before = problems
            await asyncio.sleep(FRESH_S)

    async def watch(self, every_s: float) -> NoReturn:
        """Check at this interval, so that a model replaced in Triton is soon noticed."""
        before: list[str] = []
        while True:
            await asyncio.sleep(every_s)
            problems = [line for state in (await self.states()).values() for line in state.problems]
            if problems != before:
                logger.warning("%s", "; ".join(problems) or "ready again")
                before = problems

    async def close(self) -> None:
        """Cancel the running checks."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _check(self, model: Model) -> _Check:
        """The last check of a model; start another where it is too old."""
        check = self._checks.get(model.manifest.id)
        if check is None or check.model is not model:
            unknown = f"{model.manifest.id} was not checked yet"
            check = self._checks[model.manifest.id] = _Check(model, (unknown,))
        running = check.task is not None and not check.task.done()
        if not running and time.monotonic() - check.ended >= FRESH_S:
            check.task = asyncio.create_task(self._run(check))
            self._running.add(check.task)
            check.task.add_done_callback(self._running.discard)
        return check

    async def _run(self, check: _Check) -> None:
        manifest = check.model.manifest
        checked = (
            self._problem(encoder, manifest.fingerprint) for encoder in encoders_of(manifest)
        )
        found = await asyncio.gather(*checked)
        check.problems = tuple(problem for problem in found if problem)
        check.ended = time.monotonic()

    async def _problem(self, encoder: Encoder, fingerprint: str) -> str:
        try:
            if await self._client.verify(encoder, TIMEOUT_S):
                self._wrong(fingerprint)
        except GatewayError as error:
            if error.code == WRONG:
                self._wrong(fingerprint)
            named = encoder.model in error.message
            return error.message if named else f"{encoder.model}: {error.message}"
        return ""
