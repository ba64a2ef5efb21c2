"""Items to vectors: the order of the stages between a request and its scores.

items -> tokens and pixels (threads) -> vectors (Triton, cache).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.models.registry import Model
from gateway.models.values import Deadline, Embedded, ImageItem, Item, Timings
from gateway.pipeline.concurrency import both
from gateway.pipeline.encoder import Encoder
from gateway.pipeline.prepare import Prepared, Preparer


class Embedder:
    """Prepares items and has them encoded, texts and images side by side."""

    def __init__(self, preparer: Preparer, encoder: Encoder) -> None:
        self._preparer = preparer
        self._encoder = encoder

    async def embed(
        self,
        model: Model,
        items: Sequence[Item],
        deadline: Deadline,
        timings: Timings,
        *,
        truncate: bool = True,
        skip: bool = False,
        bulk: bool = False,
    ) -> Embedded:
        """The vectors of texts and images, whole, in their order.

        Args:
            model: Whose encoders.
            items: Texts and images, mixed as they come.
            deadline: Of the request.
            timings: Takes the time of each stage, and counts what was embedded.
            truncate: Whether text over the context length is cut; otherwise it is wrong.
            skip: Whether items that are wrong are left out, each with its error.
            bulk: Whether they may wait for what others want at once.

        Raises:
            RequestError: An item is wrong and `skip` is false; `param` says which.
            Overloaded: There is no room for the pixels.
            DeadlineExceeded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        if images := sum(isinstance(item, ImageItem) for item in items):
            self._encoder.check()  # text may be known, an image has to be encoded
            timings.hold(images * 3 * model.manifest.preprocessing.image_size**2)
        prepared = await self._preparer.prepare(
            model, items, deadline, timings, truncate=truncate, skip=skip
        )
        vectors = np.zeros((len(items), model.manifest.embedding_size), dtype=np.float32)
        for index, row in (await self._vectors(model, prepared, deadline, timings, bulk)).items():
            vectors[index] = row
        timings.images += len(prepared.pixels)
        timings.texts += len(prepared.tokens)
        timings.failed += len(prepared.failed)
        tokens = prepared.tokens
        return Embedded(
            model.manifest,
            vectors,
            tuple(index in tokens and tokens[index].truncated for index in range(len(items))),
            prepared.failed,
            tokens=sum(len(text.ids) for text in tokens.values()),
            images=len(prepared.pixels),
        )

    async def _vectors(
        self, model: Model, prepared: Prepared, deadline: Deadline, timings: Timings, bulk: bool
    ) -> Mapping[int, NDArray[np.float32]]:
        async def texts() -> dict[int, NDArray[np.float32]]:
            encoded = await self._encoder.texts(
                model, prepared.tokens, deadline, timings, bulk=bulk
            )
            return {index: text.vector for index, text in encoded.items()}

        if not prepared.pixels:
            return await texts()
        images = self._encoder.images(model, prepared.pixels, deadline, timings, bulk=bulk)
        if not prepared.tokens:
            return await images
        of_texts, of_images = await both(texts(), images)
        return of_texts | of_images
