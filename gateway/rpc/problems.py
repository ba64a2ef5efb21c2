"""Maps errors to gRPC statuses, in one table, and writes them for the client."""

import logging
import math
from typing import NoReturn

import grpc

from gateway import errors
from gateway.telemetry.record import HEADER

STATUS: dict[type[errors.GatewayError], grpc.StatusCode] = {
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.MalformedRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TextError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ImageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.UnknownLabelSet: grpc.StatusCode.NOT_FOUND,
    errors.UnknownObject: grpc.StatusCode.NOT_FOUND,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooSlow: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.InferenceFailed: grpc.StatusCode.INTERNAL,
}
RETRY_AFTER_S = 1
_RETRIED = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}

# Details travel in a header, percent-encoded; clients refuse headers of more than 8 KiB in all.
_MAX_DETAILS_BYTES = 2_000

logger = logging.getLogger(__name__)


async def abort(
    context: grpc.aio.ServicerContext, known: errors.GatewayError, request_id: str
) -> NoReturn:
    """End a call with the status of an error that `known_error` returned.

    Details are its message; the metadata that trails holds `error-code`, `error-param`,
    `retry-after` (seconds) and `x-request-id`.
    """
    status = STATUS[type(known)]
    metadata = [("error-code", known.code), (HEADER, request_id)]
    if known.param:
        metadata.append(("error-param", known.param.encode("ascii", "replace").decode()))
    if status in _RETRIED:
        seconds = max(RETRY_AFTER_S, math.ceil(known.retry_after_s or 0))
        metadata.append(("retry-after", str(seconds)))
    await context.abort(status, _shortened(known.message), tuple(metadata))
    raise AssertionError("unreachable: `abort` raises")


def known_error(error: Exception, request_id: str) -> errors.GatewayError:
    """The error as the client may see it. Our own faults are logged, and show only the id."""
    if isinstance(error, errors.GatewayError) and not isinstance(error, errors.InferenceFailed):
        return error
    if isinstance(error, errors.InferenceFailed):
        logger.error("request %s: %s", request_id, error.message)
    else:
        logger.error("request %s failed", request_id, exc_info=error)
    return errors.InferenceFailed(f"internal error; report it with request id {request_id}")


def _shortened(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= _MAX_DETAILS_BYTES:
        return message
    return encoded[:_MAX_DETAILS_BYTES].decode(errors="ignore") + "..."
