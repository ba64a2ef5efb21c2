"""HTTP request -> permit, deadline, and a validated body.

Values are counted before a body is parsed, see `gateway.rest.json_limits`.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.types import Receive

from gateway.access.access import Account
from gateway.admission.permits import Admission, Permit
from gateway.errors import MalformedRequest, TooLarge, TooSlow, quoted
from gateway.models.values import Deadline, TimeLimit
from gateway.pipeline.requests import Plan
from gateway.rest.fields import NAME_CHARACTERS, TAGS
from gateway.rest.json_limits import count_values, has_long_wide_string
from gateway.telemetry.record import Record

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
    intake: "Intake"
    media_type: bytes = b"application/json"  # as the client names it

    async def run(self, plan: Plan[T]) -> T:
        """Take what a valid request costs, and only then work on it.

        Raises: As `Permit.charge`, as `Account.spend`, and as the plan.
        """
        self.permit.charge(plan.cost)
        if self.account:
            self.account.spend(plan.cost.items)
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
            most = ESCAPED_BYTES * self.intake.max_text_characters
            if len(body) > most:
                await asyncio.to_thread(_check_wide, body, most)
            self.permit.hold(WIDE * len(body))
        if not large:
            return self._parsed(schema, body)
        return await asyncio.to_thread(self._parsed, schema, body)

    def _parsed(self, schema: type[S], body: bytes) -> S:
        most = self.intake.max_values
        if len(body) > SCANNED_BYTES and count_values(body, most) > most:
            _check_beginning(body)
            raise TooLarge(
                f"the body holds more than {most:,} JSON values, which is more than "
                "GATEWAY_MAX_ITEMS, GATEWAY_MAX_LABELS and GATEWAY_MAX_PROMPTS leave room for"
            )
        try:
            return schema.model_validate_json(body)
        except ValidationError as error:
            if self.media_type.lower().startswith(b"multipart/"):
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


@dataclass(frozen=True, slots=True)
class Intake:
    """Lets requests in: not too many, not too large, not too slow."""

    admission: Admission
    max_body_bytes: int
    timeout_s: float
    max_values: int  # of a JSON body
    min_rate: int  # bytes a second
    max_text_characters: int

    @asynccontextmanager
    async def work(
        self, request: Request, *, images: bool | None = None, multiple: int = JSON
    ) -> AsyncIterator[Work]:
        """Read the body, then hold a permit while the request is worked on until its deadline.

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
        headers = dict(reversed(request.scope["headers"]))  # of equal names the first one counts
        _check_encoding(headers.get(b"content-encoding", b"identity").decode("latin-1"))
        length = headers.get(b"content-length", b"")
        declared = int(length) if length.isdigit() else 0
        self._check_size(declared)
        timeout_s = self._timeout(headers.get(b"x-request-timeout-ms"))
        state = request.scope["state"]
        record: Record = state["record"]
        permit = self.admission.arriving(multiple * declared, client=record.client, images=images)
        stall_s = STALL_S if self.min_rate else None
        with TimeLimit(timeout_s, stall_s, self._too_slow) as limit, permit:
            state["left"] = lambda: limit.end(_left())  # see `gateway.rest.http1`
            body = await self._body(request.receive, permit, multiple, limit)
            self.admission.begin(permit, images=images)
            account, media_type = state.get("account"), headers.get(b"content-type", b"")
            yield Work(body, limit.deadline, record, permit, account, self, media_type)

    @asynccontextmanager
    async def offline(
        self, body: bytes, record: Record, account: Account | None
    ) -> AsyncIterator[Work]:
        """Hold a permit while a JSON body that came earlier is worked on until its deadline.

        Raises:
            Overloaded: No permit is free, or what came before takes too long.
            TooLarge: The body is over the limit.
            DeadlineExceeded: The time is over.
        """
        self._check_size(len(body))
        with (
            TimeLimit(self.timeout_s) as limit,
            self.admission.permit(
                JSON * len(body), client=record.client, background=True
            ) as permit,
        ):
            yield Work(body, limit.deadline, record, permit, account, self)

    def _timeout(self, given: bytes | None) -> float:
        """The seconds that the client gives the request, at most those of the settings."""
        if given is None:
            return self.timeout_s
        if not re.fullmatch(rb"[0-9]{1,9}", given) or not int(given):
            raise MalformedRequest(
                "the header x-request-timeout-ms must be a positive whole number",
                param="x-request-timeout-ms",
            )
        return min(self.timeout_s, int(given) / 1000)

    def _check_size(self, size: int) -> None:
        limit = self.max_body_bytes
        if size > limit:
            raise TooLarge(
                f"the body is over the limit (GATEWAY_MAX_BODY_BYTES) of {limit:,} bytes"
            )

    async def _body(
        self, receive: Receive, permit: Permit, multiple: int, limit: TimeLimit
    ) -> bytes:
        # Not a list of pieces, which malloc would keep for itself in the end.
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _left()
            chunk: bytes = message.get("body", b"")
            self._check_size(len(body) + len(chunk))
            permit.hold(multiple * len(chunk))
            more = message.get("more_body", False)
            if more and limit.earlier is not None:  # each byte that comes puts it off
                due = limit.earlier + len(chunk) / self.min_rate
                limit.earlier = min(due, Deadline.now() + STALL_S)
            elif not more:
                limit.earlier = None
                if not body:
                    return chunk
            body += chunk
        return bytes(body) if len(body) <= INLINE_BYTES else await asyncio.to_thread(bytes, body)

    def _too_slow(self) -> TooSlow:
        return TooSlow(
            "the body arrives too slowly: the limit (GATEWAY_MIN_RATE) is "
            f"{self.min_rate:,} bytes a second"
        )


def _check_encoding(encoding: str) -> None:
    """Bodies are not decompressed, as a small one could become any size."""
    encoding = encoding.strip().lower()
    if encoding != "identity":
        raise MalformedRequest(
            f"the header content-encoding is {quoted(encoding)}: send the body uncompressed",
            param="content-encoding",
        )


def _wide(body: bytes) -> bool:
    """Whether characters beyond ASCII may be in it, as they are or escaped."""
    return not body.isascii() or b"\\u" in body


def _check_wide(body: bytes, most: int) -> None:
    if has_long_wide_string(body, most):
        raise TooLarge(
            f"a string that is no base64 has more than {most:,} bytes, which is more than "
            "GATEWAY_MAX_TEXT_CHARACTERS leaves room for"
        )


def _check_beginning(body: bytes) -> None:
    """Tell those whose text is no JSON at all so, rather than that it holds too much of it."""
    try:
        from_json(body[:SCANNED_BYTES], allow_partial=True)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None


def _left() -> MalformedRequest:
    return MalformedRequest("the client left before it was answered", code="client_left")


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
