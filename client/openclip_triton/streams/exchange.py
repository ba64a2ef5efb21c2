"""The state of a stream (items read, sent and answered), without I/O."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import convert
from openclip_triton.errors import (
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    ModelChanged,
    of_item,
)
from openclip_triton.streams.ledger import Ledger
from openclip_triton.values import Content, K, Result, StreamSettings

LONGEST_WAIT_S = 1.0  # wait for an event before a check of the connection


@dataclass(frozen=True, slots=True)
class Order:
    """The options of a stream: its request without the items."""

    options: pb.StreamOptions
    address: str  # of the service, for errors
    settings: StreamSettings
    fingerprint: str | None = None  # fingerprint of the only model that may answer
    ordered: bool = False  # results in the order of the items


# A call of a method of the exchange; returns the seconds after which to open a new connection, or
# None if none is needed.
Event = Callable[[], float | None]


class Exchange(Generic[K]):
    """One run over the caller's items.

    Readers and connections report events: calls of `answered`, `unread` or `ended`, which the
    stream's own thread or task makes one at a time; `take` yields the results. Readers number the
    items; `ledger` holds the state that they share with the exchange.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._settings = order.settings
        self.ledger = Ledger(self._settings.max_items, self._settings.max_bytes)
        self._failures = 0  # of the connection, since the last answer
        self._ready: deque[tuple[Result[K], int]] = deque()  # with the bytes of their items
        self._fingerprint = order.fingerprint
        self._ids: dict[int, K] = {}  # by number, until the result is ready
        self._count = 0  # of items read
        self._finished = 0  # of them, ready or yielded
        self._held: dict[int, tuple[Result[K], int]] = {}  # results that await earlier ones
        self._connected = False
        self._heard = 0.0  # monotonic seconds

    def accept(self, key: K) -> int:
        """Number an item, in the order of the caller's."""
        number = self._count
        self._count += 1
        self._ids[number] = key
        return number

    def item(self, content: Content, size: int) -> pb.Item:
        """Make the message of an item; reads its file, in any thread.

        Raises:
            ClientError: It cannot be read, or is too large.
        """
        most = self._settings.max_item_bytes
        if size > most:
            raise InvalidRequest(
                f"{size:,} bytes; a stream takes items of at most {most:,}", code="too_large"
            )
        return convert.to_item(content)

    def messages(self, connection: int) -> Iterator[pb.EmbedStreamRequest]:
        """Yield a connection's messages, in gRPC's thread; the first holds the options."""
        options: pb.StreamOptions | None = self.order.options
        while (taken := self.ledger.take(connection)) is not None:
            items = [pb.StreamItem(id=str(number), item=item) for number, item in taken]
            yield pb.EmbedStreamRequest(options=options, items=items)
            options = None

    def unfinished(self) -> bool:
        """Whether results are outstanding, besides those that are ready."""
        return self.ledger.reading or self._finished < self._count

    def take(self) -> Iterator[Result[K]]:
        """Yield the results that are ready; each frees the room of its item once it is used."""
        while self._ready:
            result, size = self._ready.popleft()
            yield result
            self.ledger.release(size)

    def patience(self) -> float:
        """Queue the items whose delay is over; return the seconds to wait for an event."""
        wake = self.ledger.wake()
        return LONGEST_WAIT_S if wake is None else min(wake, LONGEST_WAIT_S)

    def connect(self) -> int:
        """Queue unanswered items for a new connection; return its number."""
        self._connected = True
        self._heard = time.monotonic()
        return self.ledger.reconnect()

    def unread(self, number: int, size: int, error: ClientError) -> None:
        """Finish an item that cannot be sent."""
        self._finish(number, Result(self._ids.pop(number), None, error), size)

    def answered(self, response: pb.EmbedStreamResponse) -> None:
        """Handle a message of the service.

        Raises:
            ModelChanged: Another model answered.
        """
        self._heard = time.monotonic()
        self._check_model(response.fingerprint)
        for answer in response.results:
            number = int(answer.id)
            entry = self.ledger.awaited(number)
            if entry is None:
                continue  # answered over both an old and a new connection
            error = of_item(answer.error) if answer.HasField("error") else None
            if error is not None and error.retryable:
                entry.attempts += 1
                if entry.attempts <= self._settings.retries:
                    self.ledger.retry(number, self._settings.backoff(entry.attempts))
                    continue
            self.ledger.settle(number)
            self._failures = 0
            key = self._ids.pop(number)
            if error is not None:
                self._finish(number, Result(key, None, error), entry.size)
            else:
                vector = convert.to_vector(answer.embedding.vector)
                result = Result(key, vector, None, answer.embedding.truncated)
                self._finish(number, result, entry.size)

    def _finish(self, number: int, result: Result[K], size: int) -> None:
        if not self.order.ordered:
            self._finished += 1
            self._ready.append((result, size))
            return
        self._held[number] = (result, size)
        while self._finished in self._held:
            self._ready.append(self._held.pop(self._finished))
            self._finished += 1

    def _check_model(self, found: str) -> None:
        if self._fingerprint is None:
            self._fingerprint = found
        elif found and found != self._fingerprint:
            raise ModelChanged(
                f"the model behind {self.order.address} has the fingerprint {found}, not "
                f"{self._fingerprint} as at the start: their vectors cannot be compared"
            )

    def nothing(self) -> float | None:
        """Handle a wait without events; replace a connection that is silent for too long.

        Raises:
            ClientError: The whole stream failed.
        """
        if not self._connected:
            return 0.0 if self.ledger.entries else None
        since, limit = self.ledger.waiting_since(), self._settings.idle_s
        if since is None or time.monotonic() - max(since, self._heard) <= limit:
            return None
        silent = ConnectionFailed(f"no answer from {self.order.address} in {limit:g} s")
        return self.ended(self.ledger.connection, silent)

    def ended(self, connection: int, error: ClientError | None) -> float | None:
        """Handle the end of a connection.

        Raises:
            ClientError: The whole stream failed.
        """
        if connection != self.ledger.connection or not self._connected:
            return None
        self._connected = False
        if not self.ledger.entries:
            return None  # nothing is lost; the next item has a new connection
        error = error or ConnectionFailed(f"{self.order.address} ended the stream early")
        self._failures += 1
        if not error.retryable or self._failures > self._settings.retries:
            raise error
        return max(self._settings.backoff(self._failures), error.retry_after_s)
