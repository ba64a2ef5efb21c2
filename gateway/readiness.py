"""Whether the gateway can give right answers: a golden vector through every tower."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NoReturn

from gateway.classifiers import Classifiers
from gateway.errors import GatewayError
from gateway.inference import WRONG, InferClient, Tower
from gateway.models import Models
from gateway.towers import towers

FRESH_S = 1.0  # how long one check speaks for those that ask after it
TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class Readiness:
    """Checks every tower of every model; those that ask at the same time share one check."""

    def __init__(
        self,
        models: Models,
        client: InferClient,
        classifiers: Classifiers,
        wrong: Callable[[str], None] = lambda fingerprint: None,
    ) -> None:
        """Takes what is checked, and who is told whose fingerprint another model answers for."""
        self._models = models
        self._client = client
        self._classifiers = classifiers
        self._wrong = wrong
        self._lock = asyncio.Lock()
        self._checked = -FRESH_S
        self._problems: list[str] = []

    async def problems(self) -> list[str]:
        """What stands in the way, one line per tower or label set; empty when ready."""
        async with self._lock:
            if time.monotonic() - self._checked > FRESH_S:
                checked = [
                    self._problem(tower, model.manifest.fingerprint)
                    for model in self._models
                    for tower in towers(model.manifest)
                ]
                found = await asyncio.gather(*checked)
                self._problems = [problem for problem in found if problem]
                self._checked = time.monotonic()
            return self._problems + self._classifiers.waiting()

    async def watch(self, every_s: float) -> NoReturn:
        """Checks by itself, so that a model that was replaced under Triton is soon found out."""
        before: list[str] = []
        while True:
            await asyncio.sleep(every_s)
            problems = await self.problems()
            if problems != before:
                logger.warning("%s", "; ".join(problems) or "ready again")
                before = problems

    async def _problem(self, tower: Tower, fingerprint: str) -> str:
        try:
            if await self._client.verify(tower, TIMEOUT_S):
                self._wrong(fingerprint)
        except GatewayError as error:
            if error.code == WRONG:
                self._wrong(fingerprint)
            return error.message if tower.model in error.message else _about(tower, error)
        return ""


def _about(tower: Tower, error: GatewayError) -> str:
    return f"{tower.model}: {error.message}"
