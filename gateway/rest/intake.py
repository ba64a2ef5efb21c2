"""HTTP request -> permit, deadline, and a validated body.

The values of a JSON text are counted before it is parsed. A parser makes an object of every value
and holds the interpreter's lock meanwhile: 60 MB of `0,` would stop the whole process for seconds
and take gigabytes. Counting needs neither.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from gateway.access.access import Account, charge
from gateway.admission.permits import Admission, Permit, within
from gateway.errors import MalformedRequest, TooLarge, TooSlow, quoted
from gateway.models.values import Deadline
from gateway.pipeline.requests import Plan
from gateway.rest.fields import NAME_CHARACTERS, TAGS
from gateway.telemetry.record import Record

CHUNK_BYTES = 2**20
_QUOTE, _BACKSLASH, _U = ord('"'), ord("\\"), ord("u")
_BEYOND_ASCII = 128
# Which bytes, outside strings, come before a value.
_BEFORE_VALUE = np.isin(np.arange(256), [ord(each) for each in "[{,:"])


def count_values(body: bytes, most: int) -> int:
    """How many values, names included, a JSON text holds, roughly; stops counting beyond `most`.

    Wherever the text is JSON, each value but the outermost one has its own `[`, `{`, `,` or `:`
    before it, outside strings.
    """
    text = np.frombuffer(body, dtype=np.uint8)
    inside = escaped = False
    count = 1
    for start in range(0, len(text), CHUNK_BYTES):
        chunk = text[start : start + CHUNK_BYTES]
        quotes = chunk == _QUOTE
        masked = _escaped(chunk, escaped)
        escaped = bool(masked[-1])
        quotes &= ~masked[:-1]
        within = np.logical_xor.accumulate(quotes) ^ inside
        inside = bool(within[-1])
        count += int(np.count_nonzero(_BEFORE_VALUE[chunk] & ~within))
        if count > most:
            break
    return count


def has_long_wide_string(body: bytes, most: int) -> bool:
    """Whether more than `most` bytes between two quotes hold a character beyond ASCII.

    Each character of such a string takes up to four bytes, and is copied several times meanwhile.
    """
    text = np.frombuffer(body, dtype=np.uint8)
    escaped = open_wide = False
    begin = 0  # of what stands between quotes where a chunk begins
    for start in range(0, len(text), CHUNK_BYTES):
        chunk = text[start : start + CHUNK_BYTES]
        masked = _escaped(chunk, escaped)
        escaped = bool(masked[-1])
        quotes = (chunk == _QUOTE) & ~masked[:-1]
        wide = (chunk >= _BEYOND_ASCII) | ((chunk == _U) & masked[:-1])
        edges = np.concatenate([[begin], np.flatnonzero(quotes) + start, [start + len(chunk)]])
        within = np.unique(np.cumsum(quotes)[wide])  # numbers of pieces between quotes
        if open_wide and (not within.size or within[0]):
            within = np.concatenate([[0], within])
        if within.size and np.max(edges[within + 1] - edges[within]) > most:
            return True
        open_wide = bool(within.size) and within[-1] == len(edges) - 2
        begin = int(edges[-2])
    return False


def _escaped(chunk: NDArray[np.uint8], before: bool) -> NDArray[np.bool_]:
    """Which bytes, and whether the one after the chunk, follow an odd number of backslashes."""
    masked = np.zeros(len(chunk) + 1, dtype=np.bool_)
    masked[0] = before
    places = np.flatnonzero(chunk == _BACKSLASH)
    if before and places.size and places[0] == 0:
        places = places[1:]  # it is escaped itself, and escapes nothing
    if not places.size:
        return masked
    starts = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    lengths = np.diff(starts, append=places.size)
    ends = places[starts] + lengths
    masked[ends[lengths % 2 == 1]] = True
    return masked


SCANNED_BYTES = 2**15  # a body up to this size cannot hold enough values to matter
INLINE_BYTES = 2**18  # parsing up to this size takes less time than others notice

JSON = 4  # times its bytes: the body, its strings, and an image's base64 without line breaks
WIDE = 3  # times more where the strings hold characters that take four bytes each
RAW = 2  # the body, and a copy
FORM = 5  # the body, the files within, and how they grow
ESCAPED_BYTES = 12  # of one character in JSON, at most
STALL_S = 10.0  # seconds over which the rate is measured

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")


@dataclass(slots=True)
class Work:
    """One request that was let in."""

    body: bytes  # empty once it is parsed
    deadline: Deadline
    record: Record
    permit: Permit
    account: Account | None  # None: nobody needs a key
    max_values: int  # of a JSON body
    media_type: str  # as the client names it
    max_wide_bytes: int  # of a string with characters beyond ASCII

    @property
    def request_id(self) -> str:
        """See `Record`."""
        return self.record.request_id

    async def run(self, plan: Plan[T]) -> T:
        """Takes what a valid request costs, and only then works on it.

        Raises: As `charge`, and as the plan.
        """
        charge(plan.cost, self.permit, self.account)
        return await plan.run(self.deadline)

    async def parse(self, schema: type[S]) -> S:
        """The body as this schema; a large one is parsed in a thread.

        Raises:
            MalformedRequest: It is not JSON, or not of this shape; names the first wrong field.
            TooLarge: It holds more values than any request within the limits.
            Overloaded: There is no room for what it becomes.
        """
        body, self.body = self.body, b""
        large = len(body) > INLINE_BYTES
        if await asyncio.to_thread(_wide, body) if large else _wide(body):
            if len(body) > self.max_wide_bytes:
                await asyncio.to_thread(self._check_wide, body)
            self.permit.hold(WIDE * len(body))
        if not large:
            return self._parsed(schema, body)
        return await asyncio.to_thread(self._parsed, schema, body)

    def _check_wide(self, body: bytes) -> None:
        if has_long_wide_string(body, self.max_wide_bytes):
            raise TooLarge(
                f"a string that is no base64 has more than {self.max_wide_bytes:,} bytes, which is "
                "more than GATEWAY_MAX_TEXT_CHARACTERS leaves room for"
            )

    def _parsed(self, schema: type[S], body: bytes) -> S:
        if len(body) > SCANNED_BYTES and count_values(body, self.max_values) > self.max_values:
            _check_beginning(body)
            raise TooLarge(
                f"the body holds more than {self.max_values:,} JSON values, which is more than "
                "GATEWAY_MAX_ITEMS, GATEWAY_MAX_LABELS and GATEWAY_MAX_PROMPTS leave room for"
            )
        try:
            return schema.model_validate_json(body)
        except ValidationError as error:
            if self.media_type.lower().startswith("multipart/"):
                raise MalformedRequest("this route takes JSON, and no form") from None
            raise _malformed(error) from None

    def check(self, schema: type[S], values: dict[str, Any]) -> S:
        """Values from elsewhere, such as a query string, as this schema.

        Raises:
            MalformedRequest: They are not of this shape; names the first wrong field.
        """
        try:
            return schema.model_validate(values)
        except ValidationError as error:
            raise _malformed(error) from None


class Intake:
    """Lets requests in: not too many, not too large, not too slow."""

    def __init__(
        self,
        admission: Admission,
        max_body_bytes: int,
        timeout_s: float,
        max_values: int,
        min_rate: int,
        max_text_characters: int,
    ) -> None:
        """Takes the limits; `max_values` is what a JSON body may hold."""
        self._max_wide_bytes = ESCAPED_BYTES * max_text_characters
        self._min_rate = min_rate
        self._admission = admission
        self._max_values = max_values
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def work(
        self, request: Request, *, images: bool | None = None, multiple: int = JSON
    ) -> AsyncIterator[Work]:
        """Reads the body, then holds a permit while the request is worked on until its deadline.

        Args:
            request: Its body is read where it could be let in.
            images: Whether it holds images, where the route decides that.
            multiple: How many times its bytes the body takes at worst.

        Raises:
            Overloaded: No permit is free, or what came before takes too long.
            MalformedRequest: `x-request-timeout-ms` is not a positive whole number; the body is
                compressed; or the client has left.
            TooLarge: The body is over the limit.
            TooSlow: The body does not arrive.
            DeadlineExceeded: The request's time is over, be it in reading its body.
        """
        _check_encoding(request)
        declared, timeout_s = self._declared_size(request), self._timeout(request)
        state = request.scope["state"]
        record: Record = state["record"]
        arriving = self._admission.arriving(
            multiple * declared, client=record.client, images=images
        )
        async with within(timeout_s) as deadline:
            with arriving as permit:
                body = await self._body(request, lambda size: permit.hold(multiple * size))
                with self._admission.working(permit, images=images):
                    async with _while_there(request):
                        media_type = request.headers.get("content-type", "")
                        yield Work(
                            body,
                            deadline,
                            record,
                            permit,
                            state.get("account"),
                            self._max_values,
                            media_type,
                            self._max_wide_bytes,
                        )

    def _timeout(self, request: Request) -> float:
        """The seconds that the client gives the request, at most those of the settings."""
        given = request.headers.get("x-request-timeout-ms")
        if given is None:
            return self._timeout_s
        if not re.fullmatch(r"[0-9]{1,9}", given) or not int(given):
            raise MalformedRequest(
                "the header x-request-timeout-ms must be a positive whole number",
                param="x-request-timeout-ms",
            )
        return min(self._timeout_s, int(given) / 1000)

    def _declared_size(self, request: Request) -> int:
        """Bytes of the body, as declared; 0 where nothing is."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return 0
        if int(length) > self._max_body_bytes:
            raise self._too_large()
        return int(length)

    async def _body(self, request: Request, hold: Callable[[int], None]) -> bytes:
        # Not a list of pieces, which malloc would keep for itself in the end.
        body = bytearray()
        loop = asyncio.get_running_loop()
        due = loop.time() + STALL_S  # each byte that comes puts it off
        try:
            async with asyncio.timeout_at(due if self._min_rate else None) as limit:
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self._max_body_bytes:
                        raise self._too_large()
                    hold(len(chunk))
                    body += chunk
                    if self._min_rate:
                        due = min(due + len(chunk) / self._min_rate, loop.time() + STALL_S)
                        limit.reschedule(due)
        except ClientDisconnect:
            raise _left("its body was read") from None
        except TimeoutError:
            raise TooSlow(
                "the body arrives too slowly: the limit (GATEWAY_MIN_RATE) is "
                f"{self._min_rate:,} bytes a second"
            ) from None
        return bytes(body) if len(body) <= INLINE_BYTES else await asyncio.to_thread(bytes, body)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is over the limit (GATEWAY_MAX_BODY_BYTES) of {self._max_body_bytes:,} bytes"
        )


def _check_encoding(request: Request) -> None:
    """Bodies are not decompressed, as a small one could become any size."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise MalformedRequest(
            f"the header content-encoding is {quoted(encoding)}: send the body uncompressed",
            param="content-encoding",
        )


def _wide(body: bytes) -> bool:
    """Whether characters beyond ASCII may be in it, as they are or escaped."""
    return not body.isascii() or b"\\u" in body


def _check_beginning(body: bytes) -> None:
    """Tells those whose text is no JSON at all so, rather than that it holds too much of it."""
    try:
        from_json(body[:SCANNED_BYTES], allow_partial=True)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None


@asynccontextmanager
async def _while_there(request: Request) -> AsyncIterator[None]:
    """Ends the work inside when the client leaves; the request was read to its end."""
    left, work = False, asyncio.current_task()
    assert work is not None  # noqa: S101 - narrows what a coroutine always has

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        work.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if left and not work.uncancel():
            raise _left("it was answered") from None
        raise
    finally:
        watching.cancel()


def _left(before: str) -> MalformedRequest:
    return MalformedRequest(f"the client left before {before}", code="client_left")


def _malformed(error: ValidationError) -> MalformedRequest:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return MalformedRequest(f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}")
    *path, last = first["loc"] or ("",)
    # What a client calls a field may look like a tag, and may be of any length.
    unknown = first["type"] == "extra_forbidden"
    known = [part for part in path if part not in TAGS]
    param = ""
    for part in [*known, *([last] if unknown or last not in TAGS else [])]:
        if isinstance(part, int):
            param += f"[{part}]"
        else:
            name = part if len(part) <= NAME_CHARACTERS else part[:NAME_CHARACTERS] + "..."
            param += f".{name}" if param else name
    if unknown:
        message = "unknown field"
    return MalformedRequest(f"{param or 'body'}: {message}", param=param or None)
