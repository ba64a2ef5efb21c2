"""Threads that take items from the caller's iterable and read their files."""

import threading
from collections.abc import Callable, Iterator
from typing import Generic

from openclip_triton.arguments import check_content, check_pair
from openclip_triton.convert import size_of, to_item
from openclip_triton.errors import ClientError, InvalidRequest, UnreadableFile
from openclip_triton.streams.ledger import Entry, Ledger
from openclip_triton.values import Content, K


class Readers(Generic[K]):
    """Reads ahead of the stream as far as the ledger has room."""

    def __init__(
        self,
        source: Iterator[tuple[K, Content]],
        ledger: Ledger,
        failed: Callable[[int, int, ClientError], None],
        ended: Callable[[], None],
        max_item_bytes: int,
    ) -> None:
        self.ids: dict[int, K] = {}  # by number, until the result is yielded
        self.error: BaseException | None = None  # raised by the caller's iterable
        self.count = 0
        self._source = source
        self._ledger = ledger
        self._failed = failed
        self._ended = ended
        self._max_item_bytes = max_item_bytes
        self._lock = threading.Lock()
        self._running = 0

    def start(self, threads: int) -> None:
        """Start the threads."""
        self._running = threads
        for number in range(threads):
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
                self._read(*taken)
        finally:
            with self._lock:
                self._running -= 1
                last = not self._running
            if last:
                self._ledger.stop_reading()
                self._ended()

    def _next(self) -> tuple[int, Content, int] | None:
        # Bytes are reserved in the order of the items: results that wait for an earlier item never
        # hold the room that it needs.
        with self._lock:
            if self.error is not None:
                return None
            try:
                key, content = _pair(next(self._source))
                size = size_of(content)
            except StopIteration:
                return None
            except Exception as error:  # the caller, who owns the iterable, gets it
                self.error = error
                return None
            if not self._ledger.reserve(size):
                return None
            number = self.count
            self.count += 1
            self.ids[number] = key
            return number, content, size

    def _read(self, number: int, content: Content, size: int) -> None:
        try:
            if size > self._max_item_bytes:
                raise InvalidRequest(
                    f"{size:,} bytes; a stream takes items of at most {self._max_item_bytes:,}",
                    code="too_large",
                )
            item = to_item(content)
        except (UnreadableFile, InvalidRequest) as error:
            self._failed(number, size, error)
        else:
            self._ledger.add(number, Entry(item, size))


def _pair(taken: tuple[K, Content]) -> tuple[K, Content]:
    check_pair(taken)
    key, content = taken
    check_content(content, f"item {key!r:.100}")
    # The caller may refill a buffer once the next item is requested.
    return key, bytes(content) if isinstance(content, bytearray | memoryview) else content
