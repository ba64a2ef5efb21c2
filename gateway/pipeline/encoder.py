"""Token ids and pixels -> unit vectors: what is known already, and calls of Triton for the rest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.inference.client import Tower
from gateway.inference.encoders import by_text_tower, image_tower
from gateway.inference.lanes import Lanes
from gateway.models.registry import Model
from gateway.models.values import Deadline, Pixels, Timings, Tokens
from gateway.pipeline.cache import Encoded, VectorCache
from gateway.pipeline.concurrency import gather

BULK_ROWS = 8  # a request that wants more of one encoder goes behind those that want little

Vector = NDArray[np.float32]  # [D]


class Encoder:
    """Runs the two encoders of a model."""

    def __init__(self, lanes: Lanes, cache: VectorCache) -> None:
        self._lanes = lanes
        self._cache = cache

    def check(self) -> None:
        """Says at once when work is in vain.

        Raises:
            Unavailable: No Triton answers.
        """
        self._lanes.check()

    async def texts(
        self,
        model: Model,
        tokens: Mapping[int, Tokens],
        deadline: Deadline,
        timings: Timings,
        *,
        bulk: bool = False,
    ) -> dict[int, Encoded]:
        """The vectors of tokenized texts, by the same indices; equal ids are encoded once.

        Raises:
            DeadlineExceeded, Overloaded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        manifest = model.manifest
        texts = list(tokens.values())

        async def make(positions: list[int]) -> list[Encoded]:
            ids = {position: texts[position].ids for position in positions}
            towers = by_text_tower(manifest, ids).items()
            parts = await gather(
                self._run(tower, rows, deadline, timings, bulk) for tower, rows in towers
            )
            vectors = {position: vector for part in parts for position, vector in part.items()}
            return [
                Encoded(vectors[each], len(texts[each].ids), texts[each].truncated)
                for each in positions
            ]

        keys = [(manifest.fingerprint, text.ids.tobytes()) for text in texts]
        rows = await self._cache.rows(keys, make)
        return dict(zip(tokens, rows, strict=True))

    async def images(
        self,
        model: Model,
        pixels: Mapping[int, Pixels],
        deadline: Deadline,
        timings: Timings,
        *,
        bulk: bool = False,
    ) -> dict[int, Vector]:
        """The vectors of prepared images, by the same indices.

        Raises: As `texts`.
        """
        if not pixels:
            return {}
        return await self._run(image_tower(model.manifest), pixels, deadline, timings, bulk)

    async def _run(
        self,
        tower: Tower,
        rows: Mapping[int, NDArray[Any]],
        deadline: Deadline,
        timings: Timings,
        bulk: bool,
    ) -> dict[int, Vector]:
        bulk = bulk or len(rows) > BULK_ROWS
        vectors = await self._lanes.run(tower, list(rows.values()), deadline, timings, bulk=bulk)
        return dict(zip(rows, vectors, strict=True))
