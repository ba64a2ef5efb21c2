"""EmbedStream: any number of items in bounded memory.

messages -> window -> batches side by side -> engine -> one message per batch, as it is ready.

Nothing is read while the window is full, so that HTTP/2 flow control holds the client; and items
leave the window only when their results were written, which waits for a client that reads slowly.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from sys import getsizeof

from gateway.errors import DeadlineExceeded, MalformedRequest, RequestError, Unavailable
from gateway.models.registry import Model
from gateway.models.values import Item, TextItem
from gateway.pipeline import requests
from gateway.rpc import convert
from gateway.rpc.streambatches import StreamCall
from gateway.rpc.window import Pending, Window
from openclip_api.v1 import clip_pb2

BATCHES = 4  # side by side, so that images of one are decoded while another is in Triton

Write = Callable[[clip_pb2.EmbedStreamResponse], Awaitable[None]]


@dataclass(slots=True)
class EmbedStream:
    """Reads one call of EmbedStream, and writes its answers."""

    call: StreamCall
    write: Write  # sends a message to the client; returns when there is room for another
    _window: Window = field(init=False)
    _idle: asyncio.Timeout = field(init=False)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _cut_short: bool = False  # by draining, before the client had sent all
    _answering: int = 0  # batches
    _waiting: bool = False  # for a message

    def __post_init__(self) -> None:
        limits = self.call.config
        self._window = Window(
            limits.stream_window_items, limits.stream_window_bytes, limits.stream_batch_items
        )
        self._idle = asyncio.timeout(limits.stream_idle_s)

    async def run(self, messages: AsyncIterator[clip_pb2.EmbedStreamRequest]) -> None:
        """Answer every item once, and end when the client has sent all.

        Raises:
            RequestError: The options are wrong, or a message is; nothing more is answered.
            DeadlineExceeded: Nothing was sent, or read, for so long that the client may be gone.
            Unavailable: The service drains; what was not answered must be sent elsewhere.
        """
        try:
            async with self._idle:
                await self._run(messages)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the stream was idle for {self.call.config.stream_idle_s:g} seconds, "
                "the limit (GATEWAY_STREAM_IDLE_S)"
            ) from None

    async def _run(self, messages: AsyncIterator[clip_pb2.EmbedStreamRequest]) -> None:
        first = await self._next(messages)
        if first is not None:
            options = _options(first.options)
            model = self.call.engine.chosen(options, self.call.record)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(first, messages))
                    for _ in range(BATCHES):
                        tasks.create_task(self._work(options, model))
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        if self._cut_short:
            raise Unavailable("the service is shutting down; send the other items elsewhere")

    async def _read(
        self,
        first: clip_pb2.EmbedStreamRequest,
        messages: AsyncIterator[clip_pb2.EmbedStreamRequest],
    ) -> None:
        message: clip_pb2.EmbedStreamRequest | None = first
        while message is not None:
            self._active()
            for entry in message.items:
                await self._window.put(_pending(entry))
            message = await self._next(messages)
            if message is not None and message.HasField("options"):
                raise MalformedRequest(
                    "options: only the first message of a stream may have them", param="options"
                )
        self._window.close()

    async def _next(
        self, messages: AsyncIterator[clip_pb2.EmbedStreamRequest]
    ) -> clip_pb2.EmbedStreamRequest | None:
        """The next message; None when there is none, or when the service drains."""
        reading = asyncio.ensure_future(anext(messages, None))
        draining = asyncio.ensure_future(self.call.draining.wait())
        self._waiting = True
        self._rest()
        try:
            if not self.call.draining.is_set():
                await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            self._cut_short = True
            return None
        finally:
            self._waiting = False
            reading.cancel()
            draining.cancel()

    async def _work(self, options: requests.Embed, model: Model) -> None:
        while batch := await self._window.take():
            self._answering += 1
            self._active()
            try:
                response = await self.call.answer(batch, options, model)
            finally:
                self._answering -= 1
            self._active()
            async with self._writing:  # grpc takes one write at a time
                await self.write(response)
            self._active()
            self._window.release(batch)
            self._rest()

    def _rest(self) -> None:
        if self._waiting and not self._window.items:
            self.call.room.rest()

    def _active(self) -> None:
        """The client's time to do something begins anew; while work is done it does not run."""
        limit = asyncio.get_running_loop().time() + self.call.config.stream_idle_s
        if not self._idle.expired():
            self._idle.reschedule(None if self._answering else limit)


def _options(options: clip_pb2.StreamOptions) -> requests.Embed:
    return requests.Embed(
        options.model or None,
        [],
        dimensions=options.dimensions or None,
        truncate=options.truncate if options.HasField("truncate") else True,
        skip=True,
        bulk=True,
    )


def _pending(entry: clip_pb2.StreamItem) -> Pending:
    """The item, named by its own field: the client knows it by its id."""
    item = convert.read(entry.item, entry.item.WhichOneof("content") or "item")
    return Pending(entry.id, item, len(entry.id) + _size(item))


def _size(item: Item | RequestError) -> int:
    """Bytes that its text or image takes; one emoji makes each character of a text four."""
    if isinstance(item, RequestError):
        return 0
    return getsizeof(item.text if isinstance(item, TextItem) else item.data)
