"""Labels and templates -> classifier rows, kept so that known labels cost nothing."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from gateway.errors import DeadlineExceeded, GatewayError, Unavailable
from gateway.models.registry import Model, Models
from gateway.models.values import Deadline, Execution, TextItem, Timings
from gateway.pipeline.cache import Encoded, VectorCache
from gateway.pipeline.embedding import Encoders
from gateway.pipeline.label_sets import LabelSet, LabelSets
from gateway.pipeline.prepare import Preparer, parts
from gateway.pipeline.scoring import Label, Rows, normalise, prompts

WARM_CHUNK = 64  # labels of a set encoded at a time at start, so that requests come through
WARM_TIMEOUT_S = 60.0
RETRY_S = 1.0
PROMPTS = 512  # texts of a request that are there at a time, so that it counts for no more
PROMPT_CHARACTERS = 2**22  # a long label in 20,000 templates would be hundreds of megabytes
SHORT_NAME = 64  # characters of a label that stands as it is in its key of the cache

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Classifier:
    """What images are compared with."""

    labels: Sequence[str]
    rows: Rows  # [labels, D]
    tokens: int  # real tokens of all labels in all templates
    truncated: bool  # whether any of them was cut


@dataclass(slots=True)
class Classifiers:
    """Builds classifiers, and holds those of the label sets."""

    models: Models
    sets: LabelSets
    preparer: Preparer
    encoders: Encoders
    cache: VectorCache
    _held: dict[tuple[str, str], Classifier] = field(default_factory=dict)
    _doubted: asyncio.Event = field(default_factory=asyncio.Event)
    _doubts: Counter[str] = field(default_factory=Counter)  # by fingerprint

    async def _of_labels(
        self,
        model: Model,
        labels: Sequence[Label],
        templates: tuple[str, ...],
        execution: Execution,
    ) -> Classifier:
        """Only labels that are not in the cache are encoded.

        A label's row is the mean over its names in every template, scaled to unit length again.
        """

        async def make(positions: list[int]) -> list[Encoded]:
            wanted = [(position, labels[position]) for position in positions]
            return await self._encode(model, wanted, templates, execution)

        rows = await self.cache.rows(cache_keys(model, labels, templates), make)
        return Classifier(
            [label.name for label in labels],
            np.stack([row.vector for row in rows]),
            sum(row.tokens for row in rows),
            any(row.truncated for row in rows),
        )

    async def of_set(self, model: Model, label_set: LabelSet, execution: Execution) -> Classifier:
        """The classifier of a label set, encoded at start or, before that is done, now.

        Labels of a request come as a set without a name.

        Raises:
            RequestError: A label cannot be tokenized; `param` says which.
            DeadlineExceeded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        held = self._held.get((model.manifest.fingerprint, label_set.name))
        if held is not None:
            return held
        return await self._of_labels(model, label_set.labels, label_set.templates, execution)

    def waiting(self, model: Model) -> list[str]:
        """The label sets that are not encoded yet for a model, one line each."""
        return [
            f"label set {name!r} is being encoded for {model.manifest.id!r}"
            for name in self.sets.label_sets
            if (model.manifest.fingerprint, name) not in self._held
        ]

    async def warm(self) -> NoReturn:
        """Encode every label set for every model, and again whenever they were doubted.

        A model that fails holds up no other: it is tried again after them.
        """
        while True:
            self._doubted.clear()
            encoded = [await self._warm(model) for model in self.models]
            await (self._doubted.wait() if all(encoded) else asyncio.sleep(RETRY_S))

    async def _warm(self, model: Model) -> bool:
        """Whether all label sets of a model are encoded now."""
        try:
            await self.hold(model)
        except GatewayError as error:
            if not isinstance(error, Unavailable | DeadlineExceeded):
                logger.error("label sets of %s: %s", model.manifest.id, error.message)
            return False
        return True

    def doubt(self, fingerprint: str) -> None:
        """Drop a model's label sets: what encoded them may have been another model.

        Those of others stay, above all of one that is about to take its place.
        """
        self._held = {key: held for key, held in self._held.items() if key[0] != fingerprint}
        self._doubts[fingerprint] += 1
        self._doubted.set()

    async def hold(self, model: Model) -> None:
        """Encode every label set for a model, which need not be served yet.

        Raises: As `of_set`.
        """
        for label_set in self.sets.label_sets.values():
            fingerprint = model.manifest.fingerprint
            key = (fingerprint, label_set.name)
            while key not in self._held:
                doubts = self._doubts[fingerprint]
                made = await self._whole(model, label_set)
                if doubts == self._doubts[fingerprint]:
                    self._held[key] = made

    def forget(self) -> None:
        """Drop what is held for models that are not served any more."""
        served = {model.manifest.fingerprint for model in self.models}
        self._held = {key: held for key, held in self._held.items() if key[0] in served}

    async def _whole(self, model: Model, label_set: LabelSet) -> Classifier:
        parts = [
            await self._of_labels(
                model,
                label_set.labels[start : start + WARM_CHUNK],
                label_set.templates,
                Execution(Deadline.after(WARM_TIMEOUT_S), Timings()),
            )
            for start in range(0, len(label_set.labels), WARM_CHUNK)
        ]
        return Classifier(
            [label.name for label in label_set.labels],
            np.concatenate([part.rows for part in parts], dtype=np.float64),
            sum(part.tokens for part in parts),
            any(part.truncated for part in parts),
        )

    async def _encode(
        self,
        model: Model,
        wanted: Sequence[tuple[int, Label]],
        templates: tuple[str, ...],
        execution: Execution,
    ) -> list[Encoded]:
        rows: list[Encoded] = []
        encoded: list[Encoded] = []  # texts of the label that is next, and of those after it
        for items in portions(wanted, templates):
            found = await self.preparer.prepare(model, items, execution, truncate=True, skip=False)
            texts = await self.encoders.texts(model, found.tokens, execution)
            encoded += texts.values()
            while len(rows) < len(wanted):
                count = len(wanted[len(rows)][1].names) * len(templates)
                if len(encoded) < count:
                    break
                rows.append(_mean(encoded[:count]))
                del encoded[:count]
        return rows


def _mean(texts: Sequence[Encoded]) -> Encoded:
    """The vector of a label, of those of its texts."""
    vectors = np.stack([text.vector for text in texts])
    mean = vectors[0] if len(vectors) == 1 else normalise(vectors.mean(axis=0))
    return Encoded(mean, sum(text.tokens for text in texts), any(text.truncated for text in texts))


def portions(
    wanted: Sequence[tuple[int, Label]], templates: tuple[str, ...]
) -> Iterator[list[TextItem]]:
    """The texts to encode for labels at these positions, as many as may be there at a time."""
    texts = (
        TextItem(text, f"labels[{position}]")
        for position, label in wanted
        for text in prompts(label, templates)
    )
    return parts(texts, PROMPTS, PROMPT_CHARACTERS, lambda item: len(item.text))


def cache_keys(model: Model, labels: Sequence[Label], templates: tuple[str, ...]) -> list[Hashable]:
    """What each label's vector is kept under: small, however long the texts of a client are."""
    space = model.manifest.fingerprint, _digest(templates)
    return [(*space, _short(label.names)) for label in labels]


def _short(names: tuple[str, ...]) -> tuple[str, ...] | bytes:
    return names if len(names) == 1 and len(names[0]) <= SHORT_NAME else _digest(names)


def _digest(texts: tuple[str, ...]) -> bytes:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.digest()
