"""Items -> token ids and pixels, in threads; each item with an error of its own."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from gateway.admission.limits import RequestLimits
from gateway.errors import RequestError
from gateway.images.preprocess import Decode
from gateway.images.sources import check_source, image_bytes, web_url
from gateway.models.registry import Model
from gateway.models.values import Deadline, Execution, ImageItem, Item, Pixels, TextItem, Tokens
from gateway.pipeline.concurrency import Threads, gather

if TYPE_CHECKING:
    from gateway.images.fetch import Fetcher

INLINE_CHARACTERS = 2_000  # tokenizing so few takes less time than handing them to a thread
CHUNK = 256  # texts that a thread tokenizes at a time; others' work comes in between
FETCHING = 0.75  # of the time that a request has left; the rest is for what was fetched
CHUNK_CHARACTERS = 2**16  # of these texts: tokenizing them may take a tenth of a second
LINE_CHARACTERS = 32  # the cost of cleaning a line, on top of its characters

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the encoders take, by the index of the item that it came from."""

    tokens: Mapping[int, Tokens]
    pixels: Mapping[int, Pixels]
    failed: Mapping[int, RequestError]


@dataclass(frozen=True, slots=True)
class Preparer:
    """Tokenizes, fetches and decodes, within the limits."""

    threads: Threads  # decode images, and tokenize the texts of requests with few of them
    limits: RequestLimits
    decode: Decode
    fetcher: "Fetcher | None" = None  # None: URLs are refused
    long: Threads | None = None  # tokenize the texts of requests with more of them

    def checked(self, item: Item | RequestError) -> Item | RequestError:
        """The item, or what is wrong with it as far as that shows before any work on it."""
        try:
            if isinstance(item, TextItem):
                self.limits.text(item.text, item.param)
            elif isinstance(item, ImageItem):
                check_source(item, fetches=self.fetcher is not None)
        except RequestError as error:
            return error
        return item

    async def prepare(
        self,
        model: Model,
        items: Sequence[Item | RequestError],
        execution: Execution,
        *,
        truncate: bool,
        skip: bool,
    ) -> Prepared:
        """Token ids of texts and pixels of images, of items that were `checked`.

        Where `skip` is true, an item that cannot be prepared stands in `failed`; so does one whose
        URL is not fetched in good time before the deadline.

        Raises:
            DeadlineExceeded: The request's time is over.
            RequestError: An item cannot be prepared, and `skip` is false; `param` says which.
        """
        texts = {i: item for i, item in enumerate(items) if isinstance(item, TextItem)}
        images = {i: item for i, item in enumerate(items) if isinstance(item, ImageItem)}
        failed = {i: item for i, item in enumerate(items) if isinstance(item, RequestError)}

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

        with execution.timings.stage("tokenize"):
            tokens = keep(list(texts), await self._tokenize(model, list(texts.values()), truncate))
        pixels: dict[int, Pixels] = {}
        if images:
            decoded = await self._images(model, list(images.values()), execution, skip)
            pixels = keep(list(images), decoded)
        return Prepared(tokens, pixels, failed)

    async def _tokenize(
        self, model: Model, items: Sequence[TextItem], truncate: bool
    ) -> list[Tokens | RequestError]:
        def several(chunk: Sequence[TextItem]) -> Sequence[Tokens | RequestError]:
            texts = [item.text for item in chunk]
            outcomes = model.tokenizer.encode_all(texts, truncate=truncate)
            for item, outcome in zip(chunk, outcomes, strict=True):
                if isinstance(outcome, RequestError):
                    outcome.param = item.param
            return outcomes

        charged = sum(map(charge, items))
        if charged <= INLINE_CHARACTERS:
            return list(several(items)) if items else []
        threads = self.threads if charged <= CHUNK_CHARACTERS else self.long or self.threads
        chunks = parts(items, CHUNK, CHUNK_CHARACTERS, charge)
        found = await threads.map(several, chunks)
        return [outcome for part in found for outcome in part]

    async def _images(
        self, model: Model, items: Sequence[ImageItem], execution: Execution, skip: bool
    ) -> list[Pixels | RequestError]:
        began = fetched = time.perf_counter()
        request = execution.timings.client, id(execution.timings)
        until = Deadline.after(FETCHING * execution.deadline.left())

        async def one(item: ImageItem) -> Pixels | RequestError:
            nonlocal fetched
            url = web_url(item)
            if self.fetcher is None or url is None:
                return await self._decode(model, item, skip)
            arrived = False
            try:
                async with self.fetcher.fetched(url, request, until) as data:
                    fetched, arrived = time.perf_counter(), True
                    return await self._decode(model, replace(item, data=data), skip)
            except RequestError as error:
                error.param = error.param or item.param
                if not arrived:
                    fetched = time.perf_counter()
                if not skip:
                    raise
                return error

        try:
            return await gather(map(one, items))
        finally:
            # Images are decoded as they come; the stages meet where the last one came.
            if fetched > began:
                execution.timings.add("fetch", fetched - began, end=fetched)
            execution.timings.add("decode", time.perf_counter() - fetched)

    async def _decode(self, model: Model, item: ImageItem, skip: bool) -> Pixels | RequestError:
        def outcome() -> Pixels | RequestError:
            try:
                return self.decode(image_bytes(item), model.manifest.preprocessing)
            except RequestError as error:
                error.param = error.param or item.param
                return error

        decoded = await self.threads.run(outcome)
        if isinstance(decoded, RequestError) and not skip:
            raise decoded  # at once, so that the other images are not decoded in vain
        return decoded


def parts(
    items: Iterable[T], most: int, most_size: int, size: Callable[[T], int]
) -> Iterator[list[T]]:
    """Items in their order, in parts of at most `most` items and `most_size` in all.

    An item that is larger is a part of its own.
    """
    part: list[T] = []
    taken = 0
    for item in items:
        own = size(item)
        if part and (len(part) == most or taken + own > most_size):
            yield part
            part, taken = [], 0
        part.append(item)
        taken += own
    yield part


def charge(item: TextItem) -> int:
    """What tokenizing a text may take, in characters."""
    return len(item.text) + LINE_CHARACTERS * item.text.count("\n")
