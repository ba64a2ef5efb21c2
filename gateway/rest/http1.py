"""HTTP/1.1 as uvicorn speaks it, with limits on what a client may leave unfinished.

- A head may have `HEAD_BYTES` and `HEADERS` lines, and must arrive within a time; beyond, 431 and
  408. uvicorn keeps a head of any size for any time.
- The next request of a connection is parsed once the one before is answered. uvicorn parses all
  that were sent ahead, each of which takes a hundred times its bytes.
- `gateway.rest.connections` ends clients that do not read, and picks the connection to close where
  there are too many.

A request to upgrade (`Upgrade: h2c`, which Java's HttpClient and `curl --http2` send with each
request in plain text) is answered as if it had not asked, which RFC 9110, section 7.8, lets a
server do; uvicorn's parser would stop at its head and lose the body. And what is no HTTP gets the
error envelope, as every other error. A host that the request's target names is the one that
counts, and not the Host header's (RFC 9112, section 3.2.2).
"""

import asyncio
import re
from collections import deque
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.rest.connections import Connections
from gateway.rest.problems import problem

HEAD_BYTES = 2**16  # of a head, or of what stands between the pieces of a chunked body
HEADERS = 100
PIECE_BYTES = 2**11  # given to the parser where nobody knows what they hold: maybe 100 requests
LINGER_S = 1.0  # after the last answer, read and discard: a reset could destroy the answer
_HEAD_END = b"\r\n\r\n"
_ABSOLUTE = re.compile(rb"[^/?#]+://([^/?#]*)")  # a request's target that names its host


class Flow(FlowControl):
    """Reads nothing more while bytes wait to be parsed, even if `resume_reading` is called."""

    held = False

    def resume_reading(self) -> None:
        """See `FlowControl`."""
        if not self.held:
            super().resume_reading()


class TooManyHeaders(Exception):
    """There are more than `HEADERS` of them."""


class Http1(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        connections: Connections,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take all the connections of the process, and what uvicorn gives to each."""
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came; it has a time to send a request in."""
        super().connection_made(transport)
        self.flow: Flow = Flow(transport)
        self._arrived = b""  # and is not parsed yet
        self._unfinished = 0  # bytes since the parser last had something whole
        self._begun = self._in_body = False  # a message; its head is there
        self._left = 0  # bytes of a body whose length the head gives
        self._given_up = False
        self._cycles = deque[RequestResponseCycle]()  # of requests that are not answered yet
        self._timer: asyncio.TimerHandle | None = None
        self._connections.came(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._connections.left(self)
        self._arrived = b""
        self._stop_timer()
        super().connection_lost(exc)
        self._drop_answers()
        for cycle in self._cycles:
            if left := cycle.scope["state"].get("left"):
                left()

    def data_received(self, data: bytes) -> None:
        """Bytes came: parts of requests, or several."""
        if not self._given_up:
            self._arrived += data
            self._parse()

    def on_message_begin(self) -> None:
        """The first byte of a head is there."""
        self._begun, self._left = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head of a request is there; one that asks for an upgrade will be parsed again.

        Raises:
            TooManyHeaders: It has more lines than it may have.
        """
        self._unfinished = 0
        if len(self.headers) > HEADERS:
            raise TooManyHeaders
        if not self.parser.should_upgrade():
            self._in_body = True
            length = dict(self.headers).get(b"content-length", b"")
            self._left = int(length) if length.isdigit() else 0
            if not self.url.startswith(b"/") and (absolute := _ABSOLUTE.match(self.url)):
                host = absolute[1]
                self.headers[:] = [(n, host if n == b"host" else v) for n, v in self.headers]
            super().on_headers_complete()
            self._cycles.append(self.cycle)
            self.headers = []  # what stands behind a chunked body is not for the application

    def on_body(self, body: bytes) -> None:
        """A piece of a body is there."""
        self._unfinished = 0
        self._left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there, or the head of one that asks for an upgrade."""
        self._unfinished = 0
        self._begun = self._in_body = False
        if not self.parser.should_upgrade():
            super().on_message_complete()
            if not self.cycle.response_complete:
                self._connections.works(self)
                self.flow.resume_reading()  # else the end of the connection would not show

    def on_response_complete(self) -> None:
        """An answer was sent, or is on its way: it is the client's turn."""
        self._cycles.popleft()
        self._connections.waits(self)
        super().on_response_complete()
        more = self._arrived or self._begun or self._unfinished
        if more and not self.transport.is_closing():
            self._parse()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._connections.unread(self)

    def resume_writing(self) -> None:
        """The client has read what was sent."""
        self._connections.read(self)
        super().resume_writing()
        if self.transport is not None and not self.transport.is_closing():
            self._parse()

    def timeout_keep_alive_handler(self) -> None:
        """Hang up, without waiting for a client that does not read."""
        self.transport.abort()

    def _give_up(self, status: int, message: str, code: str) -> None:
        """Answer for the last time; a request that is being answered gets no other answer."""
        self._given_up, self._arrived = True, b""
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self._answering():
            self._drop_answers()
            if self._cycles[0].response_started:
                self.transport.abort()
                return
        body = bytes(problem(status, message, code).body)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.held = False
        self.flow.resume_reading()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _parse(self) -> None:
        """Give to the parser what has arrived, until a request is there that is to be answered."""
        data, at = self._arrived, 0
        while at < len(data) and not self._must_wait():
            part = data[at : self._cut(data, at)]
            at += len(part)
            while part and not self._given_up:
                part = self._fed(part)
        self._arrived = b"" if self._given_up else data[at:]
        held, self.flow.held = self.flow.held, bool(self._arrived)
        if self.flow.held:
            self.flow.pause_reading()
        elif held:
            self.flow.resume_reading()
        self._watch()

    def _must_wait(self) -> bool:
        if self._given_up or self.transport.is_closing() or self.flow.write_paused:
            return True
        return bool(self.pipeline) or (self._answering() and not self._begun)

    def _drop_answers(self) -> None:
        """Have whoever works on an answer learn that it goes nowhere.

        uvicorn itself marks only the last request: those behind a chunked body are parsed ahead.
        """
        for cycle in self._cycles:
            cycle.disconnected, cycle.waiting_for_100_continue = True, False
            cycle.message_event.set()

    def _answering(self) -> bool:
        """Whether an answer is due."""
        return self.cycle is not None and not self.cycle.response_complete

    def _cut(self, data: bytes, at: int) -> int:
        """The end of the next piece to parse; a piece should hold at most one request."""
        if self._in_body and self._left > 0:
            return at + self._left
        end = -1 if self._in_body else data.find(_HEAD_END, at, at + HEAD_BYTES - self._unfinished)
        return at + PIECE_BYTES if end < 0 else end + len(_HEAD_END)

    def _fed(self, data: bytes) -> bytes:
        """Give bytes to the parser; return those to give it next."""
        self._unset_keepalive_if_required()
        self._unfinished += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, TooManyHeaders):
                self._head_too_large()
            else:
                self._no_http()  # not logged: anybody can send such as fast as a log is written
            return b""
        except httptools.HttpParserUpgrade as stopped:
            method = self.parser.get_method()
            if method == b"CONNECT":  # which no proxy is here to answer
                self._no_http()
                return b""
            head = self._head(method)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return head + data[stopped.args[0] :]
        lines = len(self.headers) if self._begun and not self._in_body else 0
        if self._unfinished > HEAD_BYTES or lines > HEADERS:
            self._head_too_large()
        return b""

    def _no_http(self) -> None:
        self._give_up(400, "the request is not valid HTTP/1.1", "invalid_request")

    def _head_too_large(self) -> None:
        self._give_up(
            431,
            f"the head of the request is over the limit of {HEAD_BYTES:,} bytes and {HEADERS} "
            "headers",
            "too_large",
        )

    def _head(self, method: bytes) -> bytes:
        """The head of the request that was parsed, without its wish for an upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _watch(self) -> None:
        """Begin, or end, the time within which the client must have sent what it began.

        Not that of a body which is read: `gateway.rest.intake` sees to it.
        """
        if self._given_up:
            return
        owes = self._begun or self._unfinished or self.cycle is None
        if not owes or self._answering() or self.transport.is_closing():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._connections.head_s, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._in_body or not (self._begun or self._unfinished):
            self.transport.abort()  # it was answered before, or never asked
            return
        self._give_up(
            408,
            "the head of the request did not arrive within the limit (GATEWAY_HEAD_TIMEOUT_S) of "
            f"{self._connections.head_s:g} seconds",
            "request_timeout",
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
