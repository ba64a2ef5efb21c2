"""Permits and deadlines: a request without room is refused before any work."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.values import Deadline


class Admission:
    """Counts requests and bytes in flight. Lives on the event loop, so it needs no lock."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def permit(self, size: int) -> Iterator[None]:
        """Holds room for one request of so many bytes.

        Raises:
            Overloaded: There is none.
        """
        if self.requests >= self._max_requests:
            raise Overloaded(
                f"{self.requests} requests are in flight, as many as are taken at a time"
            )
        # A request larger than all the room there is would otherwise never be let in.
        if self.requests and self.bytes + size > self._max_bytes:
            raise Overloaded("the requests in flight hold as many bytes as are taken at a time")
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size

    @asynccontextmanager
    async def work(self, size: int, timeout_s: float) -> AsyncIterator[Deadline]:
        """Holds a permit while a request is worked on, and ends it at its deadline.

        Raises:
            Overloaded: No permit is free.
            DeadlineExceeded: The request's time is over.
        """
        with self.permit(size):
            try:
                async with asyncio.timeout(timeout_s):
                    yield Deadline.after(timeout_s)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the request was not answered within {timeout_s:g} seconds"
                ) from None
