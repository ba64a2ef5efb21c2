"""A stream: its connection, which is replaced whenever necessary, and its results.

Reader threads or tasks take items from the caller, one thread of gRPC sends, one receives, and the
caller's own thread or task handles their events.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
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
    with _Connection(exchange, open_call, events.put) as connection:
        readers.start()
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
        with _Connection(exchange, open_call, happened) as connection:
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


@dataclass(slots=True)
class _Connection(Generic[K]):
    """Sends a stream's items and receives the answers; open once entered."""

    exchange: Exchange[K]
    open_call: OpenCall
    happened: Callable[[Event], None]
    call: Call | None = None
    thread: threading.Thread | None = None

    def __enter__(self) -> "_Connection[K]":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.exchange.ledger.close()
        if self.call is not None:
            self.call.cancel()

    def open(self) -> None:
        """Open a call in place of the previous one."""
        if self.call is not None:
            self.call.cancel()
        number = self.exchange.connect()
        self.call = self.open_call(self.exchange.messages(number))
        self.thread = threading.Thread(
            target=self._receive, args=(self.call, number), name="openclip-stream", daemon=True
        )
        self.thread.start()

    def finish(self) -> None:
        """End the items and wait for the service's end: no call counts as cancelled."""
        self.exchange.ledger.close()
        if self.thread is not None:
            self.thread.join(FAREWELL_S)

    def _receive(self, call: Call, number: int) -> None:
        try:
            for response in call:
                self.happened(partial(self.exchange.answered, response))
        except grpc.RpcError as error:
            ended = of_call(error, self.exchange.order.address)
            self.happened(partial(self.exchange.ended, number, ended))
        else:
            self.happened(partial(self.exchange.ended, number, None))
