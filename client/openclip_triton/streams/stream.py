"""A stream in threads, which reconnects as often as necessary.

Reader threads take items from the caller and read files, one thread of gRPC sends, one receives,
and the caller's thread handles their events in `Stream.results`.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, Protocol

import grpc

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton.errors import of_call
from openclip_triton.streams.exchange import Answers, Ended, Event, Exchange, Order
from openclip_triton.streams.readers import Readers
from openclip_triton.values import Content, K, Result


class Call(Protocol):
    """An EmbedStream call, as a gRPC stub returns it."""

    def __iter__(self) -> Iterator[pb.EmbedStreamResponse]:
        """Yield the responses."""

    def cancel(self) -> object:
        """End the call."""


OpenCall = Callable[[Iterator[pb.EmbedStreamRequest]], Call]


class Stream(Generic[K]):
    """One run over the caller's items."""

    def __init__(
        self, items: Iterable[tuple[K, Content]], open_call: OpenCall, order: Order
    ) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._exchange = Exchange[K](order, threading.Condition())
        self._ledger = self._exchange.ledger
        self._readers = Readers(iter(items), self._exchange, self._events.put)
        self._open_call = open_call
        self._address = order.address
        self._call: Call | None = None

    def results(self) -> Generator[Result[K], None, None]:
        """Yield one result for each item.

        Raises:
            ClientError: The whole stream failed.
        """
        exchange = self._exchange
        try:
            self._readers.start(exchange.settings.readers)
            self._connect()
            while exchange.unfinished():
                delay = exchange.handle(self._next_event())
                if delay is not None:
                    time.sleep(delay)
                    self._connect()
                while exchange.ready:
                    result, size = exchange.ready.popleft()
                    yield result
                    self._ledger.release(size)
            if self._readers.error is not None:
                raise self._readers.error
        finally:
            self._ledger.close()
            if self._call is not None:
                self._call.cancel()

    def _next_event(self) -> Event | None:
        try:
            return self._events.get(timeout=self._exchange.patience())
        except Empty:
            return None

    def _connect(self) -> None:
        if self._call is not None:
            self._call.cancel()
        connection = self._exchange.connect()
        self._call = self._open_call(self._requests(connection))
        threading.Thread(
            target=self._receive, args=(self._call, connection), name="openclip-stream", daemon=True
        ).start()

    def _requests(self, connection: int) -> Iterator[pb.EmbedStreamRequest]:
        first = True
        while (taken := self._ledger.take(connection)) is not None:
            yield self._exchange.message(taken, first=first)
            first = False

    def _receive(self, call: Call, connection: int) -> None:
        try:
            for response in call:
                self._events.put(Answers(response))
        except grpc.RpcError as error:
            self._events.put(Ended(connection, of_call(error, self._address)))
        else:
            self._events.put(Ended(connection, None))
