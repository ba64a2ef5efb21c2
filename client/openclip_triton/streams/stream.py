"""A stream of any number of items, which reconnects as often as necessary.

Reader threads take items from the caller and read files, one thread of gRPC sends, one receives,
and the caller's thread handles their events in `Stream.results`.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, Protocol

import grpc

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import convert
from openclip_triton.errors import (
    ClientError,
    ConnectionFailed,
    ModelChanged,
    of_call,
    of_item,
)
from openclip_triton.streams.ledger import Ledger
from openclip_triton.streams.readers import Readers
from openclip_triton.values import Content, K, Result, StreamSettings


class Call(Protocol):
    """An EmbedStream call, as a gRPC stub returns it."""

    def __iter__(self) -> Iterator[pb.EmbedStreamResponse]:
        """Yield the responses."""

    def cancel(self) -> object:
        """End the call."""


OpenCall = Callable[[Iterator[pb.EmbedStreamRequest]], Call]


@dataclass(frozen=True, slots=True)
class _Answers:
    response: pb.EmbedStreamResponse


@dataclass(frozen=True, slots=True)
class _Ended:
    connection: int
    error: ClientError | None


@dataclass(frozen=True, slots=True)
class _Unread:
    number: int
    size: int
    error: ClientError


class _SourceEnded:
    """The caller's iterable has given its last item."""


class Stream(Generic[K]):
    """One run over the caller's items."""

    def __init__(
        self,
        items: Iterable[tuple[K, Content]],
        open_call: OpenCall,
        options: pb.StreamOptions,
        *,
        address: str,
        settings: StreamSettings,
        fingerprint: str | None = None,
        ordered: bool = False,
    ) -> None:
        self.ledger = Ledger(settings.max_items, settings.max_bytes)
        self._events: SimpleQueue[object] = SimpleQueue()
        self._readers = Readers(
            iter(items),
            self.ledger,
            lambda *unread: self._events.put(_Unread(*unread)),
            lambda: self._events.put(_SourceEnded()),
            settings.max_item_bytes,
        )
        self._open_call = open_call
        self._options = options
        self._address = address
        self._settings = settings
        self._fingerprint = fingerprint
        self._ordered = ordered
        self._call: Call | None = None
        self._failures = 0  # of the connection, since the last answer
        self._heard = 0.0  # monotonic seconds
        self._held: dict[int, tuple[Result[K], int]] = {}  # results that await earlier ones
        self._yielded = 0

    def results(self) -> Generator[Result[K], None, None]:
        """Yield one result for each item.

        Raises:
            ClientError: The whole stream failed.
        """
        try:
            self._readers.start(self._settings.readers)
            self._connect()
            while self._unfinished():
                for number, result, size in self._step():
                    yield from self._in_order(number, result, size)
            if self._readers.error is not None:
                raise self._readers.error
        finally:
            self.ledger.close()
            if self._call is not None:
                self._call.cancel()

    def _unfinished(self) -> bool:
        return self.ledger.reading or self._yielded < self._readers.count

    def _in_order(self, number: int, result: Result[K], size: int) -> Iterator[Result[K]]:
        if not self._ordered:
            yield from self._give(result, size)
            return
        self._held[number] = (result, size)
        while self._yielded in self._held:
            yield from self._give(*self._held.pop(self._yielded))

    def _give(self, result: Result[K], size: int) -> Iterator[Result[K]]:
        self._yielded += 1
        yield result
        self.ledger.release(size)

    def _step(self) -> Iterator[tuple[int, Result[K], int]]:
        """Handle the next event, or check the connection when none comes."""
        wake = self.ledger.wake()
        try:
            event = self._events.get(timeout=min(1.0 if wake is None else wake, 1.0))
        except Empty:
            self._check_connection()
            return
        if isinstance(event, _Answers):
            self._heard = time.monotonic()
            yield from self._answered(event.response)
        elif isinstance(event, _Unread):
            failed = Result(self._readers.ids.pop(event.number), None, event.error)
            yield event.number, failed, event.size
        elif isinstance(event, _Ended) and event.connection == self.ledger.connection:
            self._ended(event.error)

    def _answered(self, response: pb.EmbedStreamResponse) -> Iterator[tuple[int, Result[K], int]]:
        self._check_model(response)
        for answer in response.results:
            number = int(answer.id)
            entry = self.ledger.awaited(number)
            if entry is None:
                continue  # answered over both an old and a new connection
            error = of_item(answer.error) if answer.HasField("error") else None
            if error is not None and error.retryable:
                entry.attempts += 1
                if entry.attempts <= self._settings.retries:
                    delay = self._settings.backoff(entry.attempts)
                    self.ledger.retry(number, delay)
                    continue
            self.ledger.settle(number)
            self._failures = 0
            key = self._readers.ids.pop(number)
            if error is not None:
                yield number, Result(key, None, error), entry.size
            else:
                vector = convert.to_vector(answer.embedding.vector)
                yield number, Result(key, vector, None, answer.embedding.truncated), entry.size

    def _check_model(self, response: pb.EmbedStreamResponse) -> None:
        found = response.fingerprint
        if self._fingerprint is None:
            self._fingerprint = found
        elif found and found != self._fingerprint:
            raise ModelChanged(
                f"the model behind {self._address} has the fingerprint {found}, not "
                f"{self._fingerprint} as when the work began: their vectors cannot be compared"
            )

    def _check_connection(self) -> None:
        """Open a missing connection, and replace one that is silent for too long."""
        if self._call is None:
            if self.ledger.entries:
                self._connect()
            return
        since = self.ledger.waiting_since()
        limit = self._settings.idle_s
        if since is not None and time.monotonic() - max(since, self._heard) > limit:
            self._call.cancel()
            self._ended(ConnectionFailed(f"no answer from {self._address} in {limit:g} s"))

    def _ended(self, error: ClientError | None) -> None:
        """Reconnect for unanswered items, or give up."""
        if not self.ledger.entries:
            self._call = None  # nothing is lost; reconnects for the next item
            return
        error = error or ConnectionFailed(f"{self._address} ended the stream early")
        self._failures += 1
        if not error.retryable or self._failures > self._settings.retries:
            raise error
        time.sleep(max(self._settings.backoff(self._failures), error.retry_after_s))
        self._connect()

    def _connect(self) -> None:
        connection = self.ledger.reconnect()
        self._call = self._open_call(self._requests(connection))
        self._heard = time.monotonic()
        threading.Thread(
            target=self._receive, args=(self._call, connection), name="openclip-stream", daemon=True
        ).start()

    def _requests(self, connection: int) -> Iterator[pb.EmbedStreamRequest]:
        options: pb.StreamOptions | None = self._options
        while (taken := self.ledger.take(connection)) is not None:
            items = [pb.StreamItem(id=str(number), item=item) for number, item in taken]
            yield pb.EmbedStreamRequest(options=options, items=items)
            options = None

    def _receive(self, call: Call, connection: int) -> None:
        try:
            for response in call:
                self._events.put(_Answers(response))
        except grpc.RpcError as error:
            self._events.put(_Ended(connection, of_call(error, self._address)))
        else:
            self._events.put(_Ended(connection, None))
