"""A stream in tasks of an event loop, which reconnects as often as necessary.

Reader tasks take items from the caller, threads read files, one task sends, one receives, and the
caller's task handles their events in `AsyncStream.results`.
"""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import grpc

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton.arguments import has_files
from openclip_triton.convert import size_of
from openclip_triton.errors import ClientError, of_call
from openclip_triton.streams.exchange import (
    Answers,
    Ended,
    Event,
    Exchange,
    Order,
    SourceEnded,
    Unread,
    pair,
)
from openclip_triton.streams.ledger import Entry
from openclip_triton.values import Content, K, Result

QUIET_S = 0.5

T = TypeVar("T")


class Call(Protocol):
    """An EmbedStream call, as a stub of grpc.aio returns it."""

    def __aiter__(self) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Yield the responses."""

    async def write(self, request: pb.EmbedStreamRequest) -> None:
        """Send a request."""

    async def done_writing(self) -> None:
        """Send no more requests."""

    def cancel(self) -> object:
        """End the call."""


OpenCall = Callable[[], Call]


class Changes:
    """The condition of a ledger that tasks of one event loop share, who need no lock."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Return at once: a task awaits the predicate before, in `until`."""

    def notify_all(self) -> None:
        """Have all tasks that wait look again."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until it is true."""
        while not predicate():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)


class AsyncStream(Generic[K]):
    """One run over the caller's items."""

    def __init__(
        self,
        items: Iterable[tuple[K, Content]] | AsyncIterable[tuple[K, Content]],
        open_call: OpenCall,
        order: Order,
    ) -> None:
        self._source = aiter(items) if isinstance(items, AsyncIterable) else _Each(iter(items))
        self._changes = Changes()
        self._exchange = Exchange[K](order, self._changes)
        self._ledger = self._exchange.ledger
        self._events: deque[Event | None] = deque()
        self._happening = Changes()
        self._open_call = open_call
        self._address = order.address
        self._call: Call | None = None
        self._heard = 0  # number of the last connection that has answered
        self._turn = asyncio.Lock()  # of the readers, at the caller's iterable
        self._reading = order.settings.readers  # number of tasks that read
        self._error: Exception | None = None  # raised by the caller's iterable
        self._tasks: set[asyncio.Task[None]] = set()

    async def results(self) -> AsyncGenerator[Result[K], None]:
        """Yield one result for each item.

        Raises:
            ClientError: The whole stream failed.
        """
        exchange = self._exchange
        try:
            for _ in range(self._reading):
                self._start(self._read())
            self._connect()
            while exchange.unfinished():
                delay = exchange.handle(await self._next_event())
                if delay is not None:
                    await asyncio.sleep(delay)
                    self._connect()
                while exchange.ready:
                    result, size = exchange.ready.popleft()
                    yield result
                    self._ledger.release(size)
            if self._error is not None:
                raise self._error
        finally:
            self._ledger.close()
            if self._call is not None:
                self._call.cancel()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _happened(self, event: Event | None) -> None:
        self._events.append(event)
        self._happening.notify_all()

    async def _next_event(self) -> Event | None:
        patience = self._exchange.patience()
        timer = asyncio.get_running_loop().call_later(patience, self._happened, None)
        try:
            await self._happening.until(lambda: bool(self._events))
        finally:
            timer.cancel()
        return self._events.popleft()

    def _connect(self) -> None:
        if self._call is not None:
            self._call.cancel()
        connection = self._exchange.connect()
        self._call = self._open_call()
        receiving = self._start(self._receive(self._call, connection))
        self._start(self._send(self._call, connection, receiving))

    async def _send(self, call: Call, connection: int, receiving: asyncio.Task[None]) -> None:
        # A write that fails hides the status that the service refuses the stream with
        # (grpc/grpc#36066). So a second message waits for an answer to the first, and after a
        # failure the first waits a little for a refusal.
        if self._exchange.failures:
            await asyncio.wait([receiving], timeout=QUIET_S)
        first = True
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the receiver reports the end
            while True:
                await self._changes.until(lambda: self._ledger.may_take(connection))
                taken = self._ledger.take(connection)
                if taken is None:
                    break
                await call.write(self._exchange.message(taken, first=first))
                if first:
                    await self._changes.until(lambda: self._is_answered(connection))
                first = False
            await call.done_writing()

    def _is_answered(self, connection: int) -> bool:
        """Whether the connection has been, or will not be."""
        ledger = self._ledger
        return self._heard == connection or ledger.closed or ledger.connection != connection

    async def _receive(self, call: Call, connection: int) -> None:
        error: ClientError | None = None
        try:
            async for response in call:
                self._happened(Answers(response))
                if self._heard != connection:
                    self._heard = connection
                    self._changes.notify_all()
        except grpc.RpcError as raised:
            error = of_call(raised, self._address)
        finally:
            self._happened(Ended(connection, error))

    async def _read(self) -> None:
        try:
            while True:
                await self._changes.until(self._ledger.may_admit)
                if not self._ledger.admit():
                    return
                taken = await self._next()
                if taken is None:
                    self._ledger.release(0)
                    return
                number, content, size = taken
                try:
                    item = await _apart(self._exchange.item, content, size)
                except ClientError as error:
                    self._happened(Unread(number, size, error))
                else:
                    self._ledger.add(number, Entry(item, size))
        finally:
            self._reading -= 1
            if not self._reading:
                self._ledger.stop_reading()
                self._happened(SourceEnded())

    async def _next(self) -> tuple[int, Content, int] | None:
        # Bytes are reserved in the order of the items, as in `openclip_triton.streams.readers`.
        async with self._turn:
            if self._error is not None:
                return None
            try:
                key, content = pair(await anext(self._source))
                size = await _apart(size_of, content)
            except StopAsyncIteration:
                return None
            except Exception as error:  # the caller, who owns the iterable, gets it
                self._error = error
                return None
            await self._changes.until(lambda: self._ledger.may_reserve(size))
            if not self._ledger.reserve(size):
                return None
            return self._exchange.accept(key), content, size


async def _apart(function: Callable[..., T], content: Content, *others: object) -> T:
    """Call a function of an item: in a thread where this takes a file."""
    if has_files(content):
        return await asyncio.to_thread(function, content, *others)
    return function(content, *others)


class _Each(Generic[T]):
    """An iterator as an asynchronous one. A generator would have to be closed."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return next(self._source)
        except StopIteration:
            raise StopAsyncIteration from None
