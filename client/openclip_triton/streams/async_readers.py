"""Tasks that take items from the caller's iterable in its event loop, while threads read files."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

from openclip_triton.arguments import has_files, pair
from openclip_triton.convert import size_of
from openclip_triton.errors import ClientError
from openclip_triton.streams.exchange import Event, Exchange
from openclip_triton.streams.ledger import Entry
from openclip_triton.values import Content, K

T = TypeVar("T")


class AsyncReaders(Generic[K]):
    """Reads ahead of the stream as far as the ledger has room."""

    def __init__(
        self,
        items: Iterable[tuple[K, Content]] | AsyncIterable[tuple[K, Content]],
        exchange: Exchange[K],
        happened: Callable[[Event], None],
    ) -> None:
        self.error: Exception | None = None  # raised by the caller's iterable
        self.released = asyncio.Event()  # set when the ledger may have more room
        self._source: Iterator[tuple[K, Content]] | AsyncIterator[tuple[K, Content]] = (
            aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        )
        self._exchange = exchange
        self._ledger = exchange.ledger
        self._happened = happened
        self._turn = asyncio.Lock()  # at the source
        self._running = exchange.order.settings.readers
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the tasks."""
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._running)]

    async def stop(self) -> None:
        """Cancel the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                await self._until(self._ledger.may_admit)
                self._ledger.admit()
                taken = await self._next()
                if taken is None:
                    self._ledger.release(0)
                    return
                number, content, size = taken
                try:
                    item = await _apart(self._exchange.item, content, size)
                except ClientError as error:
                    self._happened(partial(self._exchange.unread, number, size, error))
                else:
                    self._ledger.add(number, Entry(item, size))
        finally:
            self._running -= 1
            if not self._running:
                self._ledger.stop_reading()
                self._happened(self._exchange.nothing)

    async def _next(self) -> tuple[int, Content, int] | None:
        # Bytes are reserved in the order of the items, as in `openclip_triton.streams.readers`.
        async with self._turn:
            if self.error is not None:
                return None
            try:
                source = self._source
                taken = await anext(source) if isinstance(source, AsyncIterator) else next(source)
                key, content = pair(taken)
                size = await _apart(size_of, content)
            except (StopIteration, StopAsyncIteration):
                return None
            except Exception as error:  # the caller, who owns the iterable, gets it
                self.error = error
                return None
            await self._until(lambda: self._ledger.may_reserve(size))
            self._ledger.reserve(size)
            return self._exchange.accept(key), content, size

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            self.released.clear()
            await self.released.wait()


async def _apart(function: Callable[..., T], content: Content, *others: object) -> T:
    """Call a function of an item, in a thread if the item is a file."""
    if has_files(content):
        return await asyncio.to_thread(function, content, *others)
    return function(content, *others)
