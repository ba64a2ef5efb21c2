"""Messages on their way in: what they may take of memory before they are whole.

gRPC hands a message over when all of it has come, and reports nothing of it before: a call that is
silent looks like one that has sent most of 64 MiB. Of a call that nobody reads it takes no more
than `WINDOW_BYTES`, so messages are read here alone. The kernel counts what has come on each
connection; what was not handed over yet is held. Where that is too much, those who hold the most
are ended, and where too many calls are silent, the one that was silent longest.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from gateway.admission.permits import Admission
from gateway.errors import Overloaded
from gateway.models.values import TimeLimit
from gateway.rpc.sockets import Sockets

WINDOW_BYTES = 2**16 - 1  # HTTP/2's own; see `grpc.http2.lookahead_bytes`
MOST_READINGS = 512  # of callers who may call; likewise of those that anybody may make
OPEN_BYTES = 2**18  # that a connection may hold of which anybody may have made all calls
TICK_S = 0.1  # at what a fast network brings meanwhile, about 100 MB
OVERHEAD_BYTES = 2**10  # frames and metadata that come with a message, at most but for oddities

_TICKS = 10  # between looks at connections on which nothing is awaited

Context: TypeAlias = grpc.aio.ServicerContext


@dataclass(slots=True)
class _Connection:
    """What is known of one."""

    readings: "dict[_Reading, None]" = field(default_factory=dict)
    passed: int = 0  # bytes that came and are held no more
    held: int = 0  # as of the last look

    def look(self, received: int) -> None:
        if not self.readings:
            self.passed = received
        self.passed = min(self.passed, received)
        self.held = received - self.passed

    def end(self, why: str) -> None:
        for reading in self.readings:
            reading.end(why)
        self.passed, self.held = self.passed + self.held, 0


@dataclass(eq=False, slots=True)
class _Reading:
    """A message that is awaited."""

    connection: _Connection
    known: bool  # whether the caller may call
    limit: TimeLimit

    def end(self, why: str) -> None:
        self.limit.end(Overloaded(why))


class Incoming:
    """Reads the messages of all calls. Lives on the event loop, so it needs no lock."""

    def __init__(self, admission: Admission, most_bytes: int) -> None:
        """Share a limit of bytes with the admission that counts the whole messages."""
        self._admission = admission
        self._most_bytes = most_bytes
        self._sockets = Sockets()
        self._connections: dict[str, _Connection] = {}
        self._readings: dict[bool, dict[_Reading, None]] = {False: {}, True: {}}
        self._ticks = 0

    async def read(
        self,
        context: Context,
        limit: TimeLimit | None = None,
        *,
        known: bool = True,
        admit: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> bytes | None:
        """The next message of a call; None when there is none.

        Args:
            context: The call.
            limit: Of the call, which runs already; None: no time is too long.
            known: Whether the caller may call; else its message is a small one.
            admit: Takes room for a message, which is held until then.

        Raises:
            Overloaded: It held too much, or came too slowly, while others need the room.
        """
        if limit is None:
            with TimeLimit(math.inf) as own:
                return await self.read(context, own, known=known, admit=admit)
        connection = self._connection(context.peer())
        reading = _Reading(connection, known, limit)
        among = self._readings[known]
        connection.readings[reading] = among[reading] = None
        try:
            if len(among) > MOST_READINGS:
                next(iter(among)).end("too many calls are silent, this one the longest")
            data: bytes = await context.read()
            if admit and data is not grpc.aio.EOF:
                await admit(data)
        finally:
            del connection.readings[reading], among[reading]
        if data is grpc.aio.EOF:
            return None
        connection.passed += len(data) + OVERHEAD_BYTES
        return data

    def _connection(self, peer: str) -> _Connection:
        known = self._connections.get(peer)
        if known is None:
            if not self._connections:
                asyncio.get_running_loop().call_later(TICK_S, self._tick)
            known = self._connections[peer] = _Connection()
        return known

    def _tick(self) -> None:
        self._ticks += 1
        every = self._ticks % _TICKS == 0
        looked_at = {
            peer: each for peer, each in self._connections.items() if every or each.readings
        }
        received = self._sockets.received(looked_at.keys())
        for peer, connection in looked_at.items():
            if peer in received:
                connection.look(received[peer])
            elif not connection.readings:
                del self._connections[peer]
        self._check()
        if self._connections:
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _check(self) -> None:
        holding = [each for each in self._connections.values() if each.readings and each.held]
        for connection in holding:
            if connection.held > OPEN_BYTES and not any(one.known for one in connection.readings):
                connection.end("health and reflection take small messages alone")
        excess = self._admission.bytes + sum(each.held for each in holding) - self._most_bytes
        for connection in sorted(holding, key=lambda each: each.held, reverse=True):
            if excess <= 0:
                return
            excess -= connection.held
            connection.end(
                "too much is in flight, most of it on this connection: the limit "
                f"(GATEWAY_MAX_INFLIGHT_BYTES) is {self._most_bytes:,} bytes"
            )
