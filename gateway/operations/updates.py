"""Rolling updates: serve another version of a model while requests run.

manifest changed -> its encoders loaded in every Triton -> golden vectors -> label sets encoded ->
the new model in place of the old, at once. If a step fails, the old model stays in service.
What is not served any more is unloaded in every Triton, once no gateway uses it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

from gateway.errors import GatewayError
from gateway.inference.client import Encoder, InferClient
from gateway.inference.encoders import encoders_of
from gateway.models.manifest import Manifest, ManifestError, repository_state
from gateway.models.registry import Model, Models, Selection
from gateway.pipeline.classifiers import Classifiers
from gateway.pipeline.concurrency import comes, gather

LOAD_S = 300.0  # for all encoders of a model to be loaded
VERIFY_S = 30.0
LOOKS = 12  # at how much a version has run, before it counts as unused
RETRY_S, RETRY_MOST_S = 5.0, 60.0  # before a refused model is tried again; doubles each time

logger = logging.getLogger(__name__)


class Updates:
    """Follows the model repository."""

    def __init__(
        self,
        models: Models,
        selection: Selection,
        client: InferClient,
        classifiers: Classifiers,
        serves: Callable[[Iterable[Manifest]], None] = lambda manifests: None,
    ) -> None:
        """Follow nothing yet.

        Args:
            models: What is served; changed here.
            selection: Which models are wanted.
            client: Loads and checks encoders.
            classifiers: Encodes the label sets of a model before it is served.
            serves: Called with all served manifests whenever they change.
        """
        self._models = models
        self._selection = selection
        self._client = client
        self._classifiers = classifiers
        self._serves = serves
        self._lock = asyncio.Lock()
        self._asked = asyncio.Event()
        self._seen: object = None
        self._problems: list[str] = []
        self._known: set[str] = set()  # every encoder that was served
        self._wait_s = RETRY_S
        self._again = 0.0  # when to try refused models again

    def ask(self) -> None:
        """Make `follow` reload now, even if the repository seems unchanged."""
        self._seen = None
        self._asked.set()

    async def follow(self, every_s: float) -> NoReturn:
        """Look for changes at this interval; for 0, only after `ask`."""
        while True:
            await comes(self._asked, every_s or None)
            self._asked.clear()
            state = await self._state()
            due = bool(self._problems) and time.monotonic() >= self._again
            if state != self._seen or due:
                await self.reload()

    async def reload(self) -> list[str]:
        """Serve what the repository holds; return what was refused and why, one line each."""
        async with self._lock:
            state = await self._state()
            self._wait_s = RETRY_S if state != self._seen else min(2 * self._wait_s, RETRY_MOST_S)
            self._seen = state
            self._encoders()
            problems = await self._all()
            for problem in problems:
                if problem not in self._problems:
                    logger.error("%s", problem)
            self._problems = problems
            self._again = time.monotonic() + self._wait_s
            return problems

    async def release_unused(self, unused_s: float) -> NoReturn:
        """Have Triton unload what no gateway has used for this time.

        Gateways know nothing of each other, but Triton counts the rows that a version runs, and
        each gateway sends golden vectors to what it serves.
        """
        before: list[str] = []
        while True:
            await asyncio.sleep(unused_s / LOOKS)
            problems = await self._release()
            for problem in problems:
                if problem not in before:
                    logger.warning("not unloaded what is unused: %s", problem)
            before = problems

    async def rest_idle(self, idle_s: float) -> NoReturn:
        """Have Triton unload encoders that ran no rows for any gateway for this time."""
        before: list[str] = []
        while True:
            await asyncio.sleep(idle_s / LOOKS)
            problems = await self._client.rest(self._encoders(), LOOKS)
            for problem in problems:
                if problem not in before:
                    logger.warning("not unloaded what is idle: %s", problem)
            before = problems

    async def _release(self) -> list[str]:
        async with self._lock:
            served = self._encoders()
            # What this gateway has not taken up yet is new, and perhaps not used by any so far.
            behind = self._problems or await self._state() != self._seen
            gone = () if behind else self._known - {encoder.model for encoder in served}
            return await self._client.release(served, gone, math.inf if behind else LOOKS)

    def _encoders(self) -> list[Encoder]:
        """All that is served now, which is then known."""
        served = [encoder for model in self._models for encoder in encoders_of(model.manifest)]
        self._known.update(encoder.model for encoder in served)
        return served

    async def _state(self) -> object:
        try:
            return await asyncio.to_thread(repository_state, self._selection.repository)
        except OSError as error:  # the file system is gone; `_all` reports it
            return str(error)

    async def _all(self) -> list[str]:
        try:
            found = await asyncio.to_thread(self._selection.load, self._models)
        except (ManifestError, OSError) as error:
            return [f"{error}; what is served stays"]
        problems = [await self._take(model) for model in found.values()]
        for model in self._models:
            if model.manifest.id not in found:
                self._models.drop(model.manifest.id)
                self._changed(f"model {model.manifest.id} is gone, and not served any more")
        return [problem for problem in problems if problem]

    async def _take(self, model: Model) -> str:
        """Serve this model; return the reason where it is refused, else an empty string."""
        manifest = model.manifest
        before = self._models.served(manifest.id)
        if before is not None and before.manifest == manifest:
            return ""
        try:
            _check(before, manifest)
            async with asyncio.timeout(LOAD_S):
                await gather(
                    self._client.load(encoder, LOAD_S) for encoder in encoders_of(manifest)
                )
            await gather(
                self._client.verify(encoder, VERIFY_S) for encoder in encoders_of(manifest)
            )
            await self._classifiers.hold(model)
        except (GatewayError, ManifestError, TimeoutError) as error:
            stays = f"; version {before.manifest.version} stays" if before else ""
            why = str(error) or f"its encoders were not loaded within {LOAD_S:g} s"
            return f"model {manifest.id}, version {manifest.version}, is refused: {why}{stays}"
        self._models.put(model)
        came_from = f", in place of version {before.manifest.version}" if before else ""
        self._changed(
            f"serving {manifest.id}, version {manifest.version}{came_from}; its fingerprint is "
            f"{manifest.fingerprint}"
        )
        return ""

    def _changed(self, what: str) -> None:
        self._classifiers.forget()
        served = [model.manifest for model in self._models]
        self._serves(served)
        logger.info("%s", what)


def _check(before: Model | None, manifest: Manifest) -> None:
    """Refuse two models under one version: one could answer in the other's place.

    Raises:
        ManifestError: The version is served, with another fingerprint.
    """
    if before is None or before.manifest.version != manifest.version:
        return
    if before.manifest.fingerprint != manifest.fingerprint:
        raise ManifestError(
            "it is another model under the version number that is served; publish it under a new "
            "one, or restart Triton and the gateway"
        )
