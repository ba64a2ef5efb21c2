"""Label sets of models that are doubted, or away, while they are encoded."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pytest

from gateway.admission.limits import RequestLimits
from gateway.errors import Unavailable
from gateway.images.preprocess import Decoder, ImageLimits
from gateway.inference.batching import Batcher
from gateway.inference.client import Call, Encoder, FakeInferClient
from gateway.models.manifest import read_manifest
from gateway.models.registry import Model, Models, Selection
from gateway.models.values import Vectors
from gateway.operations.readiness import Readiness
from gateway.operations.updates import Updates
from gateway.pipeline.cache import VectorCache
from gateway.pipeline.classifiers import Classifiers
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.embedding import Encoders
from gateway.pipeline.label_sets import LabelSet, LabelSets
from gateway.pipeline.prepare import Preparer
from gateway.pipeline.scoring import Label
from tests.conftest import REPOSITORY
from tests.gateway.fakes import Gated, unit
from tests.gateway.waiting import WITHIN_S, until


@pytest.fixture
def demo() -> Model:
    return Model.load(read_manifest(REPOSITORY / "demo.manifest.json"), REPOSITORY)


@dataclass(frozen=True)
class Held:
    """Label sets of models."""

    classifiers: Classifiers
    doubt: Callable[[Model], None]  # as the composition root has it


def holding(client: FakeInferClient, models: Models, *sets: str) -> Held:
    """Sets of one label each, which is encoded in one call."""
    made = [LabelSet(name, (Label(name, (name,)),), ("{}",)) for name in sets]
    cache = VectorCache(2**20)
    limits = RequestLimits(100, 100, 1_000, 1_000)
    preparer = Preparer(Threads(1), limits, Decoder(ImageLimits(1, 1, 1)))
    encoder = Encoders(Batcher(client, 1), cache)
    classifiers = Classifiers(models, LabelSets(made), preparer, encoder, cache)

    def doubt(model: Model) -> None:
        cache.clear()
        classifiers.doubt(model.manifest.fingerprint)

    return Held(classifiers, doubt)


class Stepped(FakeInferClient):
    """Answers a given number of calls."""

    def __init__(self) -> None:
        super().__init__(unit)
        self._steps = asyncio.Semaphore(0)

    def step(self, calls: int) -> None:
        for _ in range(calls):
            self._steps.release()

    async def infer(self, call: Call, within: float) -> Vectors:
        self.calls.append(call)
        await self._steps.acquire()
        return unit(call)

    async def verify(self, encoder: Encoder, within: float) -> bool:
        """Always right, and no call."""
        return False


async def test_rows_of_the_wrong_model_are_made_again(demo: Model) -> None:
    models = Models({"demo": demo})
    client = Gated(lambda call: unit(call) if len(client.calls) > 1 else -unit(call))
    held = holding(client, models, "numbers")
    warming = asyncio.create_task(held.classifiers.warm())
    await until(lambda: client.calls)
    held.doubt(demo)  # while the wrong model works on them
    client.gate.set()
    await until(lambda: not held.classifiers.waiting(demo))
    rows = held.classifiers._held[demo.manifest.fingerprint, "numbers"].rows
    np.testing.assert_array_equal(rows[:, 0], [1])
    warming.cancel()


async def test_a_model_that_is_away_holds_up_no_other(demo: Model) -> None:
    [text] = demo.manifest.triton.text
    encoders = demo.manifest.triton.model_copy(
        update={"text": (text.model_copy(update={"name": "away.text"}),)}
    )
    changed = {"id": "away", "fingerprint": "f" * 64, "triton": encoders}
    away = Model(demo.manifest.model_copy(update=changed), demo.tokenizer)
    there = False

    def answer(call: Call) -> Vectors:
        if call.encoder.model == "away.text" and not there:
            raise Unavailable("not loaded")
        return unit(call)

    held = holding(FakeInferClient(answer), Models({"away": away, "demo": demo}), "numbers")
    warming = asyncio.create_task(held.classifiers.warm())
    await until(lambda: not held.classifiers.waiting(demo))
    assert held.classifiers.waiting(away)
    there = True
    await until(lambda: not held.classifiers.waiting(away))
    warming.cancel()


async def test_a_doubt_while_a_new_model_is_prepared_leaves_no_set_out(demo: Model) -> None:
    models, client = Models({"demo": demo}), Stepped()
    held = holding(client, models, "numbers", "digits")
    client.step(2)
    warming = asyncio.create_task(held.classifiers.warm())
    await until(lambda: not held.classifiers.waiting(demo))
    manifest = demo.manifest.model_copy(update={"version": 2, "fingerprint": "f" * 64})
    new = Model(manifest, demo.tokenizer)

    class Repository(Selection):
        def load(self, known: Models | None = None) -> dict[str, Model]:
            return {"demo": new}

    updates = Updates(models, Repository(REPOSITORY), client, held.classifiers)
    reloading = asyncio.create_task(updates.reload())
    await until(lambda: len(client.calls) == 3)
    client.step(1)
    await until(lambda: len(client.calls) == 4)  # the first set is held, the second is made
    held.doubt(demo)  # the old one, which is still served
    client.step(100)

    async def doubted_all_the_time() -> NoReturn:
        while True:
            held.doubt(demo)
            client.step(1)
            await asyncio.sleep(0)

    doubting = asyncio.create_task(doubted_all_the_time())
    async with asyncio.timeout(WITHIN_S):
        assert await reloading == []
    doubting.cancel()
    await until(lambda: not held.classifiers.waiting(new))
    assert models.find("demo").manifest.version == 2
    warming.cancel()


async def test_one_of_several_that_has_changed_is_reason_to_doubt(demo: Model) -> None:
    class Changed(FakeInferClient):
        async def verify(self, encoder: Encoder, within: float) -> bool:
            return True

    models, client = Models({"demo": demo}), Changed(unit)
    doubts: list[str] = []
    held = holding(client, models)
    readiness = Readiness(models, client, held.classifiers, doubts.append)
    assert await readiness.problems() == []
    assert set(doubts) == {demo.manifest.fingerprint}
