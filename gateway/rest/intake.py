"""HTTP request -> permit, deadline, and a validated body."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from gateway.admission import Admission
from gateway.errors import DeadlineExceeded, MalformedRequest, TooLarge
from gateway.rest.schemas import TAGS
from gateway.values import Deadline, Timings

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Work:
    """One request that was let in."""

    body: bytes
    deadline: Deadline
    timings: Timings = field(default_factory=Timings)

    def parse(self, schema: type[S]) -> S:
        """The body as this schema.

        Raises:
            MalformedRequest: It is not JSON, or not of this shape; names the first wrong field.
        """
        try:
            return schema.model_validate_json(self.body)
        except ValidationError as error:
            raise _malformed(error) from None


class Intake:
    """Lets requests in: not too many, not too large, not too slow."""

    def __init__(self, admission: Admission, max_body_bytes: int, timeout_s: float) -> None:
        self._admission = admission
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def work(self, request: Request) -> AsyncIterator[Work]:
        """Holds a permit while the request is worked on, and ends it at its deadline.

        Raises:
            Overloaded: No permit is free.
            TooLarge: The body is over the limit.
            DeadlineExceeded: The request's time is over, be it in reading its body.
        """
        declared = self._declared_size(request)
        deadline = Deadline.after(self._timeout_s)
        with self._admission.permit(declared):
            try:
                async with asyncio.timeout(self._timeout_s):
                    yield Work(await self._body(request), deadline)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the request was not answered within {self._timeout_s:g} seconds"
                ) from None

    def _declared_size(self, request: Request) -> int:
        """What the body may take: as declared, or the limit where nothing is."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return self._max_body_bytes
        if int(length) > self._max_body_bytes:
            raise self._too_large()
        return int(length)

    async def _body(self, request: Request) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > self._max_body_bytes:
                    raise self._too_large()
                chunks.append(chunk)
        except ClientDisconnect:
            raise MalformedRequest("the client left before its body was read") from None
        return b"".join(chunks)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is over the limit (GATEWAY_MAX_BODY_BYTES) of {self._max_body_bytes:,} bytes"
        )


def _malformed(error: ValidationError) -> MalformedRequest:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return MalformedRequest(f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}")
    param = ""
    for part in first["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part not in TAGS or (not param and part in {"text", "image"}):
            param += f".{part}" if param else part
    if first["type"] == "extra_forbidden":
        message = "unknown field"
    return MalformedRequest(f"{param or 'body'}: {message}", param=param or None)
