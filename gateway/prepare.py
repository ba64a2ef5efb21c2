"""Items -> token ids and pixels, in threads; each item with an error of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.concurrency import Threads, gather
from gateway.errors import RequestError, about
from gateway.images import ImageLimits, preprocess
from gateway.limits import RequestLimits
from gateway.models import Model
from gateway.sources import image_bytes
from gateway.values import ImageItem, Item, Pixels, TextItem, Timings, Tokens

INLINE_CHARACTERS = 2_000  # tokenizing so few takes less time than handing them to a thread

T = TypeVar("T")
I = TypeVar("I", TextItem, ImageItem)  # noqa: E741 - an item of either kind


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the encoders take, by the index of the item that it came from."""

    tokens: Mapping[int, Tokens]
    pixels: Mapping[int, Pixels]
    failed: Mapping[int, RequestError]


class Preparer:
    """Tokenizes and decodes, within the limits."""

    def __init__(self, threads: Threads, limits: RequestLimits, image_limits: ImageLimits) -> None:
        self._threads = threads
        self._limits = limits
        self._image_limits = image_limits

    async def prepare(
        self, model: Model, items: Sequence[Item], timings: Timings, *, truncate: bool, skip: bool
    ) -> Prepared:
        """Token ids of texts and pixels of images.

        Where `skip` is true, an item that cannot be prepared stands in `failed`.

        Raises:
            RequestError: An item cannot be prepared, and `skip` is false; `param` says which.
        """
        texts = {i: item for i, item in enumerate(items) if isinstance(item, TextItem)}
        images = {i: item for i, item in enumerate(items) if isinstance(item, ImageItem)}
        failed: dict[int, RequestError] = {}

        def keep(indices: Sequence[int], outcomes: Sequence[T | RequestError]) -> dict[int, T]:
            kept = {}
            for index, outcome in zip(indices, outcomes, strict=True):
                if not isinstance(outcome, RequestError):
                    kept[index] = outcome
                elif skip:
                    failed[index] = outcome
                else:
                    raise outcome
            return kept

        with timings.stage("tokenize"):
            tokens = keep(list(texts), await self._tokenize(model, list(texts.values()), truncate))
        with timings.stage("decode"):
            decoding = (self._decode(model, item, skip) for item in images.values())
            pixels = keep(list(images), await gather(decoding))
        return Prepared(tokens, pixels, failed)

    async def _tokenize(
        self, model: Model, items: Sequence[TextItem], truncate: bool
    ) -> list[Tokens | RequestError]:
        def one(item: TextItem) -> Tokens:
            self._limits.text(item.text, item.param)
            return model.tokenizer.encode(item.text, truncate=truncate)

        def every() -> list[Tokens | RequestError]:
            return [_outcome(one, item) for item in items]

        short = sum(len(item.text) for item in items) <= INLINE_CHARACTERS
        return every() if short else await self._threads.run(every)

    async def _decode(self, model: Model, item: ImageItem, skip: bool) -> Pixels | RequestError:
        def one(item: ImageItem) -> Pixels:
            return preprocess(image_bytes(item), model.manifest.preprocessing, self._image_limits)

        outcome = await self._threads.run(_outcome, one, item)
        if isinstance(outcome, RequestError) and not skip:
            raise outcome  # at once, so that the other images are not decoded in vain
        return outcome


def _outcome(function: Callable[[I], T], item: I) -> T | RequestError:
    try:
        with about(item.param):
            return function(item)
    except RequestError as error:
        return error
