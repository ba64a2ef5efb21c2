"""Errors -> HTTP statuses, in one table, and the one envelope that every error comes in."""

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from itertools import chain

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gateway import errors
from gateway.telemetry.record import Record

logger = logging.getLogger(__name__)

STATUS: dict[type[errors.GatewayError], HTTPStatus] = {
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.MalformedRequest: HTTPStatus.BAD_REQUEST,
    errors.TextError: HTTPStatus.BAD_REQUEST,
    errors.ImageError: HTTPStatus.BAD_REQUEST,
    errors.UnknownModel: HTTPStatus.NOT_FOUND,
    errors.UnknownLabelSet: HTTPStatus.NOT_FOUND,
    errors.UnknownObject: HTTPStatus.NOT_FOUND,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooSlow: HTTPStatus.REQUEST_TIMEOUT,
    errors.QuotaExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.InferenceFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
}
RETRY_AFTER_S = 1
_RETRIED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}

_TYPES = {  # OpenAI's words where it has one
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(description="Of what kind it is, in OpenAI's words.")
    param: str | None = Field(description="The field that it is about, such as `input[3]`.")
    code: str = Field(description="A stable word for programs, such as `invalid_image`.")


class ErrorResponse(BaseModel):
    """Every error, whatever raised it."""

    error: ErrorObject


def error_object(error: errors.GatewayError) -> dict[str, str | None]:
    """What an error of one item says."""
    return _object(STATUS[type(error)], *_described(error))


def _object(status: int, message: str, code: str, param: str | None) -> dict[str, str | None]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"message": message, "type": kind, "param": param, "code": code}


def _described(error: errors.GatewayError) -> tuple[str, str, str | None]:
    return (
        errors.shortened(error.message),
        error.code,
        error.param and errors.shortened(error.param),
    )


def problem(
    status: int,
    message: str,
    code: str,
    param: str | None = None,
    *,
    retry: bool = False,
    more: Mapping[str, object] | None = None,
) -> Response:
    """The response to an error: the error envelope, with `more` fields next to the error."""
    body = {"error": _object(status, message, code, param), **(more or {})}
    headers = {"retry-after": str(RETRY_AFTER_S)} if retry else {}
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def internal_error(request_id: str) -> Response:
    """The answer to our own fault: what a report needs, and no internals."""
    return problem(500, f"internal error; report it with request id {request_id}", "internal_error")


def install(app: FastAPI) -> None:
    """Make the app render every error through the envelope."""
    app.add_exception_handler(errors.GatewayError, _on_gateway_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def rendered(error: errors.GatewayError, record: Record) -> Response:
    """The answer that an error of this request comes in."""
    status = STATUS[type(error)]
    record.error = error.code
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        request_id = record.request_id
        logger.error("request %s: %s", request_id, error.message)
        return internal_error(request_id)
    response = problem(status, *_described(error), retry=status in _RETRIED)
    if error.retry_after_s is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if status == HTTPStatus.REQUEST_TIMEOUT:
        response.headers["connection"] = "close"
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["www-authenticate"] = "Bearer"
    return response


async def _on_gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.GatewayError)  # noqa: S101 - narrows Starlette's signature
    return rendered(error, request.scope["state"]["record"])


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - narrows Starlette's signature
    phrase = HTTPStatus(error.status_code).phrase
    message = errors.shortened(f"{phrase}: {request.method} {request.url.path}")
    response = problem(error.status_code, message, phrase.lower().replace(" ", "_"))
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """The methods of all routes of a path; Starlette names only those of the first route."""
    routes = chain.from_iterable(
        each.original_router.routes if hasattr(each, "original_router") else (each,)
        for each in request.app.routes
    )
    matching = (each for each in routes if each.matches(request.scope)[0] != Match.NONE)
    return {method for route in matching for method in getattr(route, "methods", None) or ()}
