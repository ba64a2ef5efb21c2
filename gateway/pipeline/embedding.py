"""Items -> unit vectors: prepared, looked up in the cache, and encoded where they are not known."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import RequestError
from gateway.inference.batching import Batcher
from gateway.inference.client import Encoder
from gateway.inference.encoders import ModelEncoders
from gateway.models.manifest import Manifest
from gateway.models.registry import Model
from gateway.models.values import Embedded, Execution, ImageItem, Item, Pixels, Tokens
from gateway.pipeline.cache import Encoded, VectorCache
from gateway.pipeline.concurrency import gather
from gateway.pipeline.prepare import Prepared, Preparer, parts

BULK_ROWS = 8  # of one encoder; larger requests go behind smaller ones
PART_IMAGES = 256  # of a request whose pixels are in memory at a time

Vector = NDArray[np.float32]  # [D]


class Encoders:
    """Runs the encoders of every model; vectors of texts come from a cache where it has them."""

    def __init__(self, batcher: Batcher, cache: VectorCache) -> None:
        self._batcher = batcher
        self._cache = cache
        self._encoders: dict[str, ModelEncoders] = {}  # by the model's id

    def check(self) -> None:
        """Fail before any work if no Triton answers. Raises Unavailable: none does."""
        self._batcher.client.check()

    async def texts(
        self,
        model: Model,
        tokens: Mapping[int, Tokens],
        execution: Execution,
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
            encoders = self._of(manifest).by_text_encoder(ids).items()
            runs = await gather(self._run(*each, execution, bulk) for each in encoders)
            vectors = dict(ChainMap(*runs))
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
        execution: Execution,
        *,
        bulk: bool = False,
    ) -> dict[int, Vector]:
        """The vectors of prepared images, by the same indices. Raises: As `texts`."""
        encoder = self._of(model.manifest).image
        return await self._run(encoder, pixels, execution, bulk)

    def _of(self, manifest: Manifest) -> ModelEncoders:
        known = self._encoders.get(manifest.id)
        if known is None or known.manifest is not manifest:
            known = self._encoders[manifest.id] = ModelEncoders(manifest)
        return known

    async def _run(
        self, encoder: Encoder, rows: Mapping[int, NDArray[Any]], execution: Execution, bulk: bool
    ) -> dict[int, Vector]:
        bulk = bulk or len(rows) > BULK_ROWS
        vectors = await self._batcher.run(
            encoder, list(rows.values()), execution.deadline, execution.timings, bulk=bulk
        )
        return dict(zip(rows, vectors, strict=True))


class Embedder:
    """Prepares items and has them encoded, texts and images side by side."""

    def __init__(self, preparer: Preparer, encoders: Encoders) -> None:
        self._preparer = preparer
        self._encoders = encoders

    def checked(
        self, items: Sequence[Item | RequestError], *, skip: bool = False
    ) -> list[Item | RequestError]:
        """Check items without starting work on them, and return them.

        With `skip`, the error of a wrong item takes its place.

        Raises:
            RequestError: An item is wrong and `skip` is false; `param` says which.
            Unavailable: There are images, and no Triton answers.
        """
        outcomes = [self._preparer.checked(item) for item in items]
        if not skip:
            for outcome in outcomes:
                if isinstance(outcome, RequestError):
                    raise outcome
        if any(isinstance(outcome, ImageItem) for outcome in outcomes):
            self._encoders.check()  # text may be in the cache, an image has to be encoded
        return outcomes

    async def tokenize(
        self, model: Model, items: Sequence[Item | RequestError], execution: Execution
    ) -> list[Tokens]:
        """Token ids of texts that `checked` returned, cut at the context length.

        Raises:
            TextError: A text cannot be tokenized; `param` says which.
        """
        prepared = await self._preparer.prepare(model, items, execution, truncate=True, skip=False)
        return list(prepared.tokens.values())

    async def embed(
        self,
        model: Model,
        items: Sequence[Item | RequestError],
        execution: Execution,
        *,
        truncate: bool = True,
        skip: bool = False,
        bulk: bool = False,
    ) -> Embedded:
        """The vectors of texts and images, mixed as `checked` returns them, whole, in their order.

        Text over the context length is cut, or without `truncate` wrong. With `skip`, items that
        are wrong are left out, each with its error. `bulk` items go behind urgent ones.

        Raises:
            RequestError: An item is wrong and `skip` is false; `param` says which.
            DeadlineExceeded, Overloaded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        vectors = np.zeros((len(items), model.manifest.embedding_size), dtype=np.float32)
        truncated = [False] * len(items)
        failed: dict[int, RequestError] = {}
        begin = tokens = images = 0
        for part in parts(items, len(items), PART_IMAGES, _is_image):
            prepared = await self._preparer.prepare(
                model, part, execution, truncate=truncate, skip=skip
            )
            rows = await self._vectors(model, prepared, execution, bulk)
            for index, row in rows.items():
                vectors[begin + index] = row
            for index, text in prepared.tokens.items():
                truncated[begin + index] = text.truncated
                tokens += len(text.ids)
            failed.update((begin + index, error) for index, error in prepared.failed.items())
            images += len(prepared.pixels)
            execution.timings.images += len(prepared.pixels)
            execution.timings.texts += len(prepared.tokens)
            execution.timings.failed += len(prepared.failed)
            begin += len(part)
        return Embedded(
            model.manifest, vectors, tuple(truncated), failed, tokens=tokens, images=images
        )

    async def _vectors(
        self, model: Model, prepared: Prepared, execution: Execution, bulk: bool
    ) -> Mapping[int, Vector]:
        async def texts() -> dict[int, Vector]:
            encoded = await self._encoders.texts(model, prepared.tokens, execution, bulk=bulk)
            return {index: text.vector for index, text in encoded.items()}

        work = [texts()] if prepared.tokens else []
        if prepared.pixels:
            work.append(self._encoders.images(model, prepared.pixels, execution, bulk=bulk))
        return ChainMap(*await gather(work))


def _is_image(item: Item | RequestError) -> bool:
    return isinstance(item, ImageItem)
