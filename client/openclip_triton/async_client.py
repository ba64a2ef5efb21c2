"""The client for asyncio: one connection to the service, shared by all calls."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

import numpy as np

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import arguments, calls
from openclip_triton.channel import Connected
from openclip_triton.streams.exchange import Order
from openclip_triton.streams.stream import async_results
from openclip_triton.values import (
    C,
    Content,
    Image,
    K,
    Model,
    Prediction,
    Ranked,
    Result,
    Similarity,
    Space,
    StreamSettings,
    Vectors,
)

R = TypeVar("R")


class AsyncClient(Connected):
    """`Client` for asyncio: the same calls, each to be awaited, in one event loop.

    Files are read in threads. Cancelling a call ends it at the service as well. A stream that is
    left early is closed by its `aclose`; see `contextlib.aclosing`. The arguments are `Client`'s.
    """

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    async def embed_texts(
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        dimensions: int | None = None,
        truncate: bool | None = None,
    ) -> Vectors:
        """See `Client.embed_texts`."""
        options = pb.StreamOptions(model=model, dimensions=dimensions, truncate=truncate)
        return await self._embed(calls.Batch(texts, "texts", arguments.check_text, options))

    async def embed_images(
        self, images: Sequence[Image], *, model: str = "", dimensions: int | None = None
    ) -> Vectors:
        """See `Client.embed_images`."""
        options = pb.StreamOptions(model=model, dimensions=dimensions)
        return await self._embed(calls.Batch(images, "images", arguments.check_image, options))

    async def _embed(self, batch: calls.Batch[C]) -> Vectors:
        call = await _made(batch.call, batch.contents)
        if call is not None:
            return await self._async_unary(call)
        order = Order(batch.options, self.address, StreamSettings(), ordered=True)
        found = async_results(enumerate(batch.contents), self._open_stream, order)
        async with aclosing(found) as results:
            return np.stack([calls.vector_of(result) async for result in results])

    async def space(self, *, model: str = "", dimensions: int | None = None) -> Space:
        """See `Client.space`."""
        return await self._async_unary(calls.space(model, dimensions))

    def stream(
        self,
        items: Iterable[tuple[K, Content]] | AsyncIterable[tuple[K, Content]],
        *,
        model: str = "",
        dimensions: int | None = None,
        truncate: bool | None = None,
        fingerprint: str | None = None,
        ordered: bool = False,
        settings: StreamSettings | None = None,
    ) -> AsyncGenerator[Result[K], None]:
        """See `Client.stream`; takes an asynchronous iterable as well."""
        options = pb.StreamOptions(model=model, dimensions=dimensions, truncate=truncate)
        order = Order(
            options, self.address, settings or StreamSettings(), fingerprint, ordered=ordered
        )
        return async_results(items, self._open_stream, order)

    async def classify(
        self,
        images: Sequence[Image],
        labels: Sequence[str] = (),
        *,
        label_set: str = "",
        templates: Sequence[str] = (),
        template_set: str = "",
        top_k: int | None = None,
        model: str = "",
    ) -> list[list[Prediction]]:
        """See `Client.classify`."""
        given = (images, labels, label_set, templates, template_set, top_k, model)
        call = await _made(lambda: calls.classify(*given), images)
        return await self._async_unary(call)

    async def similarity(
        self, texts: Sequence[str], images: Sequence[Image], *, model: str = ""
    ) -> Similarity:
        """See `Client.similarity`."""
        call = await _made(lambda: calls.similarity(texts, images, model), images)
        return await self._async_unary(call)

    async def rerank(
        self,
        query: Content,
        documents: Sequence[Content],
        *,
        top_n: int | None = None,
        model: str = "",
    ) -> list[Ranked]:
        """See `Client.rerank`."""
        call = await _made(lambda: calls.rerank(query, documents, top_n, model), query, documents)
        return await self._async_unary(call)

    async def models(self) -> list[Model]:
        """See `Client.models`."""
        return await self._async_unary(calls.models())


async def _made(make: Callable[[], R], *contents: object) -> R:
    """Make a call, in a thread if its content includes a file."""
    return await asyncio.to_thread(make) if arguments.has_files(*contents) else make()
