"""A stream: its connection, which is replaced whenever necessary, and its results.

Reader threads or tasks take items from the caller, one thread of gRPC sends, one receives, and the
caller's own thread or task handles their events.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, Protocol

import grpc

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton.errors import of_call
from openclip_triton.streams.async_readers import AsyncReaders
from openclip_triton.streams.exchange import Event, Exchange, Order
from openclip_triton.streams.readers import Readers
from openclip_triton.values import Content, K, Result

FAREWELL_S = 1.0  # for the end of the call, once all results are there


class Call(Protocol):
    """An EmbedStream call, as a gRPC stub returns it."""

    def __iter__(self) -> Iterator[pb.EmbedStreamResponse]:
        """Yield the responses."""

    def cancel(self) -> object:
        """End the call."""


OpenCall = Callable[[Iterator[pb.EmbedStreamRequest]], Call]


def results(
    items: Iterable[tuple[K, Content]], open_call: OpenCall, order: Order
) -> Generator[Result[K], None, None]:
    """Yield one result for each item; threads take the items.

    Raises:
        ClientError: The whole stream failed.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    exchange = Exchange[K](order)
    readers = Readers(iter(items), exchange, events.put)
    with _Connection(exchange, open_call, order.address, events.put) as connection:
        readers.start(order.settings.readers)
        while exchange.unfinished():
            event: Event = exchange.nothing
            with suppress(Empty):
                event = events.get(timeout=exchange.patience())
            delay = event()
            if delay is not None:
                time.sleep(delay)
                connection.open()
            yield from exchange.take()
        connection.finish()
    if readers.error is not None:
        raise readers.error


async def async_results(
    items: Iterable[tuple[K, Content]] | AsyncIterable[tuple[K, Content]],
    open_call: OpenCall,
    order: Order,
) -> AsyncGenerator[Result[K], None]:
    """Yield one result for each item; tasks of the event loop take the items.

    Raises:
        ClientError: The whole stream failed.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def happened(event: Event) -> None:
        with suppress(RuntimeError):  # the loop ended before the call
            loop.call_soon_threadsafe(events.put_nowait, event)

    exchange = Exchange[K](order)
    readers = AsyncReaders(items, exchange, events.put_nowait)
    try:
        with _Connection(exchange, open_call, order.address, happened) as connection:
            readers.start()
            while exchange.unfinished():
                timer = loop.call_later(exchange.patience(), events.put_nowait, exchange.nothing)
                try:
                    delay = (await events.get())()
                finally:
                    timer.cancel()
                if delay is not None:
                    await asyncio.sleep(delay)
                    connection.open()
                for result in exchange.take():
                    readers.released.set()
                    yield result
                readers.released.set()
            await asyncio.to_thread(connection.finish)
    finally:
        await readers.stop()
    if readers.error is not None:
        raise readers.error


class _Connection(Generic[K]):
    """Sends a stream's items and receives the answers; open once entered."""

    def __init__(
        self,
        exchange: Exchange[K],
        open_call: OpenCall,
        address: str,
        happened: Callable[[Event], None],
    ) -> None:
        self._exchange = exchange
        self._open_call = open_call
        self._address = address
        self._happened = happened
        self._call: Call | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "_Connection[K]":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._exchange.ledger.close()
        if self._call is not None:
            self._call.cancel()

    def open(self) -> None:
        """Open a call in place of the previous one."""
        if self._call is not None:
            self._call.cancel()
        number = self._exchange.connect()
        self._call = self._open_call(self._exchange.messages(number))
        self._thread = threading.Thread(
            target=self._receive, args=(self._call, number), name="openclip-stream", daemon=True
        )
        self._thread.start()

    def finish(self) -> None:
        """End the items and wait for the service's end: no call counts as cancelled."""
        self._exchange.ledger.close()
        if self._thread is not None:
            self._thread.join(FAREWELL_S)

    def _receive(self, call: Call, number: int) -> None:
        try:
            for response in call:
                self._happened(partial(self._exchange.answered, response))
        except grpc.RpcError as error:
            ended = of_call(error, self._address)
            self._happened(partial(self._exchange.ended, number, ended))
        else:
            self._happened(partial(self._exchange.ended, number, None))
