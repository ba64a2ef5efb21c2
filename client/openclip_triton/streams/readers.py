"""Threads that take items from the caller's iterable and read their files."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic

from openclip_triton.arguments import pair
from openclip_triton.convert import size_of
from openclip_triton.errors import ClientError
from openclip_triton.streams.exchange import Event, Exchange
from openclip_triton.streams.ledger import Entry
from openclip_triton.values import Content, K


class Readers(Generic[K]):
    """Reads ahead of the stream as far as the ledger has room."""

    def __init__(
        self,
        source: Iterator[tuple[K, Content]],
        exchange: Exchange[K],
        happened: Callable[[Event], None],
    ) -> None:
        self.error: BaseException | None = None  # raised by the caller's iterable
        self._source = source
        self._exchange = exchange
        self._ledger = exchange.ledger
        self._happened = happened
        self._lock = threading.Lock()
        self._running = exchange.order.settings.readers

    def start(self) -> None:
        """Start the threads."""
        for number in range(self._running):
            threading.Thread(
                target=self._run, name=f"openclip-reader-{number}", daemon=True
            ).start()

    def _run(self) -> None:
        try:
            while self._ledger.admit():
                taken = self._next()
                if taken is None:
                    self._ledger.release(0)
                    break
                number, content, size = taken
                try:
                    item = self._exchange.item(content, size)
                except ClientError as error:
                    self._happened(partial(self._exchange.unread, number, size, error))
                else:
                    self._ledger.add(number, Entry(item, size))
        finally:
            with self._lock:
                self._running -= 1
                last = not self._running
            if last:
                self._ledger.stop_reading()
                self._happened(self._exchange.nothing)

    def _next(self) -> tuple[int, Content, int] | None:
        # Bytes are reserved in the order of the items: results that wait for an earlier item never
        # hold the room that it needs.
        with self._lock:
            if self.error is not None:
                return None
            try:
                key, content = pair(next(self._source))
                size = size_of(content)
            except StopIteration:
                return None
            except Exception as error:  # the caller, who owns the iterable, gets it
                self.error = error
                return None
            if not self._ledger.reserve(size):
                return None
            return self._exchange.accept(key), content, size
