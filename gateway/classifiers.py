"""Labels and templates -> classifier rows, kept so that known labels cost nothing."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.cache import Encoded, VectorCache
from gateway.encoder import Encoder
from gateway.errors import DeadlineExceeded, GatewayError, Unavailable
from gateway.labelsets import LabelSet, LabelSets
from gateway.models import Model, Models
from gateway.prepare import Preparer
from gateway.values import Deadline, TextItem, Timings, Vectors
from gateway.vectors import normalise
from gateway.zeroshot import Label, prompts

WARM_CHUNK = 64  # labels of a set encoded at a time at start, so that requests come through
WARM_TIMEOUT_S = 60.0
RETRY_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Classifier:
    """What images are compared with."""

    labels: Sequence[str]
    rows: Vectors  # float32 [labels, D]
    tokens: int  # real tokens of all labels in all templates
    truncated: bool  # whether any of them was cut


class Classifiers:
    """Builds classifiers, and holds those of the label sets."""

    def __init__(
        self, models: Models, sets: LabelSets, preparer: Preparer, encoder: Encoder,
        cache: VectorCache,
    ) -> None:  # fmt: skip
        self._models = models
        self._sets = sets
        self._preparer = preparer
        self._encoder = encoder
        self._cache = cache
        self._held: dict[tuple[str, str], Classifier] = {}

    async def of_labels(
        self,
        model: Model,
        labels: Sequence[Label],
        templates: tuple[str, ...],
        deadline: Deadline,
        timings: Timings,
    ) -> Classifier:
        """The classifier of these labels; only labels that are not known are encoded.

        A label's row is the mean over its names in every template, scaled to unit length again.

        Raises:
            RequestError: A label cannot be tokenized; `param` says which.
            DeadlineExceeded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """

        async def make(positions: list[int]) -> list[Encoded]:
            wanted = [(position, labels[position]) for position in positions]
            return await self._encode(model, wanted, templates, deadline, timings)

        fingerprint = model.manifest.fingerprint
        keys = [(fingerprint, templates, label.names) for label in labels]
        rows = await self._cache.rows(keys, make)
        return Classifier(
            [label.name for label in labels],
            np.stack([row.vector for row in rows]),
            sum(row.tokens for row in rows),
            any(row.truncated for row in rows),
        )

    async def of_set(
        self, model: Model, label_set: LabelSet, deadline: Deadline, timings: Timings
    ) -> Classifier:
        """The classifier of a label set, encoded at start or, before that is done, now.

        Raises: As `of_labels`.
        """
        held = self._held.get((model.manifest.fingerprint, label_set.name))
        if held is not None:
            return held
        return await self.of_labels(model, label_set.labels, label_set.templates, deadline, timings)

    def waiting(self) -> list[str]:
        """The label sets that are not encoded yet, one line for each model."""
        return [
            f"label set {name!r} is being encoded for {model.manifest.id!r}"
            for model in self._models
            for name in self._sets.label_sets
            if (model.manifest.fingerprint, name) not in self._held
        ]

    async def warm(self) -> None:
        """Encodes every label set for every model; tries again for as long as Triton is away."""
        for model in self._models:
            while model in self._models:  # it may be replaced meanwhile
                try:
                    await self.hold(model)
                    break
                except (Unavailable, DeadlineExceeded):
                    await asyncio.sleep(RETRY_S)
                except GatewayError as error:
                    logger.error("label sets of %s: %s", model.manifest.id, error.message)
                    await asyncio.sleep(RETRY_S)

    async def hold(self, model: Model) -> None:
        """Encodes every label set for a model, which need not be served yet.

        Raises: As `of_labels`.
        """
        for label_set in self._sets.label_sets.values():
            key = (model.manifest.fingerprint, label_set.name)
            if key not in self._held:
                self._held[key] = await self._whole(model, label_set)

    def forget(self) -> None:
        """Drops what is held for models that are not served any more."""
        served = {model.manifest.fingerprint for model in self._models}
        self._held = {key: held for key, held in self._held.items() if key[0] in served}

    async def _whole(self, model: Model, label_set: LabelSet) -> Classifier:
        parts = [
            await self.of_labels(
                model,
                label_set.labels[start : start + WARM_CHUNK],
                label_set.templates,
                Deadline.after(WARM_TIMEOUT_S),
                Timings(),
            )
            for start in range(0, len(label_set.labels), WARM_CHUNK)
        ]
        return Classifier(
            [label.name for label in label_set.labels],
            np.concatenate([part.rows for part in parts]),
            sum(part.tokens for part in parts),
            any(part.truncated for part in parts),
        )

    async def _encode(
        self,
        model: Model,
        wanted: Sequence[tuple[int, Label]],
        templates: tuple[str, ...],
        deadline: Deadline,
        timings: Timings,
    ) -> list[Encoded]:
        items: list[TextItem] = []
        ends: list[int] = []
        for position, label in wanted:
            items += [TextItem(each, f"labels[{position}]") for each in prompts(label, templates)]
            ends.append(len(items))
        prepared = await self._preparer.prepare(model, items, timings, truncate=True, skip=False)
        texts = await self._encoder.texts(model, prepared.tokens, deadline, timings)
        rows = []
        for start, end in zip([0, *ends], ends, strict=False):
            of_label = [texts[index] for index in range(start, end)]
            vectors = np.stack([text.vector for text in of_label])
            mean = vectors[0] if len(vectors) == 1 else normalise(vectors.mean(axis=0))
            tokens = sum(text.tokens for text in of_label)
            rows.append(Encoded(mean, tokens, any(text.truncated for text in of_label)))
        return rows
