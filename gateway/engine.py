"""The engine: the only module that orders the stages of a request.

items -> tokens and pixels (threads) -> calls to Triton (side by side) -> vectors, in order.
"""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.errors import UnknownModel, about
from gateway.images import ImageLimits, from_base64, preprocess
from gateway.manifest import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKEN_IDS, Manifest
from gateway.text import TextTokenizer, padded
from gateway.triton import Call, InferClient
from gateway.values import (
    Classified,
    Deadline,
    Embedded,
    ImageItem,
    Item,
    Pixels,
    TextItem,
    Timings,
    TokenIds,
    Tokens,
)
from gateway.vectors import ensemble
from gateway.zeroshot import classify, prompts

MAX_CALL_BYTES = 2_500_000  # beyond this, gRPC moves fewer images a second than in smaller calls
MAX_CALLS = 8  # of one request side by side, so that a large one leaves room for others
INLINE_CHARACTERS = 2_000  # tokenizing so few takes less time than handing them to a thread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Model:
    """A served model: what is known of it, and its tokenizer."""

    manifest: Manifest
    tokenizer: TextTokenizer

    @classmethod
    def load(cls, manifest: Manifest, repository: Path) -> "Model":
        """Reads the model's tokenizer; see `TextTokenizer`."""
        return cls(manifest, TextTokenizer(manifest.tokenizer, repository))


class Engine:
    """Turns items into vectors and images into predictions."""

    def __init__(
        self,
        models: Mapping[str, Model],
        client: InferClient,
        threads: ThreadPoolExecutor,
        image_limits: ImageLimits,
    ) -> None:
        self.models = models
        self._client = client
        self._threads = threads
        self._image_limits = image_limits

    def model(self, model_id: str) -> Model:
        """The served model of this id.

        Raises:
            UnknownModel: There is none.
        """
        try:
            return self.models[model_id]
        except KeyError:
            served = ", ".join(sorted(self.models))
            raise UnknownModel(
                f"the model {model_id!r} is not served; served are: {served}", param="model"
            ) from None

    async def embed(
        self,
        model: Model,
        items: Sequence[Item],
        deadline: Deadline,
        timings: Timings,
        *,
        truncate: bool = True,
    ) -> Embedded:
        """Embeds texts and images, mixed as they come.

        Raises:
            RequestError: An item cannot be embedded; `param` says which.
            DeadlineExceeded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        tokens, pixels = await self._prepare(model, items, timings, truncate)
        vectors = np.empty((len(items), model.manifest.embedding_size), dtype=np.float32)
        with timings.stage("infer"):
            slots = asyncio.Semaphore(MAX_CALLS)

            async def run(rows: list[int], call: Call) -> None:
                async with slots:
                    vectors[rows] = await self._client.infer(call, deadline.left())

            await _all(run(rows, call) for rows, call in _calls(model.manifest, tokens, pixels))
        return Embedded(
            vectors,
            tuple(index in tokens and tokens[index].truncated for index in range(len(items))),
            tokens=sum(len(text.ids) for text in tokens.values()),
            images=len(pixels),
        )

    async def zero_shot(
        self,
        model: Model,
        images: Sequence[ImageItem],
        labels: Sequence[str],
        templates: Sequence[str],
        top_k: int,
        deadline: Deadline,
        timings: Timings,
    ) -> Classified:
        """Classifies images by labels, each in every template.

        Raises: As `embed`.
        """
        texts = [
            TextItem(prompt, f"labels[{index // len(templates)}]")
            for index, prompt in enumerate(prompts(labels, templates))
        ]
        embedded = await self.embed(model, [*images, *texts], deadline, timings)
        vectors = embedded.vectors
        with timings.stage("encode"):
            classifier = ensemble(vectors[len(images) :], len(templates))
            predictions = classify(
                vectors[: len(images)], classifier, labels, model.manifest, top_k
            )
        return Classified(predictions, any(embedded.truncated), embedded.tokens)

    async def _prepare(
        self, model: Model, items: Sequence[Item], timings: Timings, truncate: bool
    ) -> tuple[dict[int, Tokens], dict[int, Pixels]]:
        """Tokens and pixels by the index of their item."""
        texts = {i: item for i, item in enumerate(items) if isinstance(item, TextItem)}
        images = {i: item for i, item in enumerate(items) if isinstance(item, ImageItem)}

        def tokenize() -> list[Tokens]:
            return [_tokenize(model, item, truncate) for item in texts.values()]

        with timings.stage("tokenize"):
            short = sum(len(item.text) for item in texts.values()) <= INLINE_CHARACTERS
            tokens = tokenize() if short else await self._in_thread(tokenize)
        with timings.stage("decode"):
            pixels = await self._decode(model, list(images.values()))
        return dict(zip(texts, tokens, strict=True)), dict(zip(images, pixels, strict=True))

    async def _decode(self, model: Model, images: Sequence[ImageItem]) -> list[Pixels]:
        def decode(item: ImageItem) -> Pixels:
            with about(item.param):
                data = item.data if isinstance(item.data, bytes) else from_base64(item.data)
                return preprocess(data, model.manifest.preprocessing, self._image_limits)

        return await _all(self._in_thread(decode, item) for item in images)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)


async def _all(work: Iterator[Awaitable[T]]) -> list[T]:
    """Awaits everything side by side; the first failure cancels what has not ended."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _tokenize(model: Model, item: TextItem, truncate: bool) -> Tokens:
    with about(item.param):
        return model.tokenizer.encode(item.text, truncate=truncate)


def _calls(
    manifest: Manifest, tokens: Mapping[int, Tokens], pixels: Mapping[int, Pixels]
) -> Iterator[tuple[list[int], Call]]:
    """The calls that a request makes, each with the rows of the answer that it fills.

    Texts go to the shortest text tower that takes them, so that equal shapes batch in Triton.
    """
    by_tower: dict[int, dict[int, TokenIds]] = defaultdict(dict)
    for row, text in tokens.items():
        index = bisect_left(manifest.token_lengths, len(text.ids))
        length = manifest.token_lengths[index]
        by_tower[index][row] = padded(text.ids, length, manifest.tokenizer.pad_id)
    for index, batch in by_tower.items():
        tower = manifest.triton.text[index]
        for rows, array in _chunks(batch, tower.max_batch):
            yield rows, text_call(manifest, tower.name, array)
    for rows, array in _chunks(pixels, manifest.triton.image.max_batch):
        yield rows, image_call(manifest, array)


def _chunks(
    arrays: Mapping[int, NDArray[Any]], max_batch: int
) -> Iterator[tuple[list[int], NDArray[Any]]]:
    """Stacks arrays of one shape into batches that Triton takes and gRPC moves fast."""
    if not arrays:
        return
    rows = list(arrays)
    size = max(1, min(max_batch, MAX_CALL_BYTES // arrays[rows[0]].nbytes))
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        yield chunk, np.stack([arrays[row] for row in chunk])


def image_call(manifest: Manifest, batch: NDArray[np.uint8]) -> Call:
    """A call of the image tower on uint8 [n, S, S, 3]."""
    return Call(
        manifest.triton.image.name,
        manifest.version,
        PIXELS,
        batch,
        IMAGE_FEATURES,
        manifest.embedding_size,
    )


def text_call(manifest: Manifest, tower: str, batch: NDArray[np.int32]) -> Call:
    """A call of one text tower on int32 [n, length]."""
    return Call(tower, manifest.version, TOKEN_IDS, batch, TEXT_FEATURES, manifest.embedding_size)
