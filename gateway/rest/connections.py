"""The connections of a process: how many, and which of them are given up for the others.

A connection waits for its client from its beginning, and from each answer, until a whole request
is there. Where there are too many, the one that has waited longest is ended: a client that sends
what it has to send is soon through, however many others say nothing.
"""

import asyncio
from dataclasses import dataclass

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Connection

STALL_S = 10.0  # seconds over which the rate is measured


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may cost."""

    connections: int
    head_s: float  # seconds that the head of a request may take
    rate: float  # bytes a second at which answers must be read
    unread_bytes: int  # of answers that were not read yet, all together


class Connections:
    """All of one process. Lives on its event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.head_s = limits.head_s
        self._limits = limits
        self._alive = set[Connection]()
        self._waiting: dict[Connection, None] = {}  # for their clients, longest first
        self._unread: dict[Connection, asyncio.TimerHandle] = {}  # longest first

    def came(self, connection: Connection) -> None:
        """A client has connected; it may cost another its connection."""
        self._alive.add(connection)
        self._waiting[connection] = None
        if len(self._alive) > self._limits.connections:
            self._end(next(iter(self._waiting)))

    def left(self, connection: Connection) -> None:
        """It has ended."""
        self._alive.discard(connection)
        self._waiting.pop(connection, None)
        self.read(connection)

    def waits(self, connection: Connection) -> None:
        """It is the client's turn."""
        if connection in self._alive:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """It is our turn."""
        self._waiting.pop(connection, None)

    def unread(self, connection: Connection) -> None:
        """An answer waits for its client to read; too many of them cost the oldest."""
        self.read(connection)
        if connection in self._alive:
            self._look_again(connection)
        sizes = [each.transport.get_write_buffer_size() for each in self._unread]
        while len(self._unread) > 1 and sum(sizes) > self._limits.unread_bytes:
            self._end(next(iter(self._unread)))
            del sizes[0]

    def read(self, connection: Connection) -> None:
        """The answer was read."""
        if (timer := self._unread.pop(connection, None)) is not None:
            timer.cancel()

    def _look_again(self, connection: Connection) -> None:
        size = connection.transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._unread[connection] = loop.call_later(STALL_S, self._look, connection, size)

    def _look(self, connection: Connection, before: int) -> None:
        read = before - connection.transport.get_write_buffer_size()
        if read < self._limits.rate * STALL_S:
            self._end(connection)
        else:
            self._look_again(connection)

    def _end(self, connection: Connection) -> None:
        self.left(connection)
        connection.transport.abort()
