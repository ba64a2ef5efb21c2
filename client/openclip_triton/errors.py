"""Errors of the client.

ClientError
├── Transient          the same call may succeed later: wait `retry_after_s`, and call again
│   ├── ConnectionFailed   the service cannot be reached, or the connection was lost
│   ├── Overloaded         the service is at its limit, or the key's quota is spent
│   ├── Unavailable        the service answers, but its models cannot be reached
│   └── DeadlineExceeded   no answer in time
├── Rejected           the same call would fail again: change its arguments
│   ├── InvalidRequest     a bad image or text, a wrong value, something over a limit
│   ├── Unauthenticated    the key is missing or wrong
│   ├── NotFound           unknown model or label set
│   ├── ModelChanged       the served model is not the one that the work began with
│   └── UnreadableFile     a local file cannot be read
└── ServiceFailed      a fault of the service: report it, with the message
"""

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

    from openclip_api.v1 import clip_pb2 as pb


class ClientError(Exception):
    """Base of all errors of the client.

    Attributes:
        message: The service's description of the fault and its place.
        code: A stable identifier for programs, such as `invalid_image`.
        param: The field at fault, such as `input[3]`, or None.
        retryable: Whether the same request may succeed later.
        retry_after_s: Seconds to wait before a retry; 0 if the service gave none.
    """

    code = "client_error"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retryable = type(self).retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s

    def locate(self, place: str) -> None:
        """Replace the service's name of the item by the caller's place."""
        what = self.message.removeprefix(f"{self.param}: ")
        self.message, self.param = f"{place}: {what}", place
        self.args = (self.message,)


class Transient(ClientError):
    """The same call may succeed later: wait `retry_after_s`, and call again."""

    code = "transient"
    retryable = True


class Rejected(ClientError):
    """The same call would fail again: change its arguments."""

    code = "rejected"


class ConnectionFailed(Transient):
    """The service cannot be reached, or the connection was lost."""

    code = "connection_failed"


class InvalidRequest(Rejected):
    """A bad image or text, a wrong value, something over a limit."""

    code = "invalid_request"


class Unauthenticated(Rejected):
    """The key is missing or wrong."""

    code = "unauthenticated"


class NotFound(Rejected):
    """Unknown model or label set."""

    code = "not_found"


class Overloaded(Transient):
    """The service is at its limit, or the key's quota is spent."""

    code = "overloaded"


class Unavailable(Transient):
    """The service answers, but its models cannot be reached."""

    code = "unavailable"


class DeadlineExceeded(Transient):
    """No answer in time."""

    code = "deadline_exceeded"


class ServiceFailed(ClientError):
    """A fault of the service."""

    code = "internal_error"


class ModelChanged(Rejected):
    """The served model is not the one that the work began with."""

    code = "model_changed"


class UnreadableFile(Rejected):
    """A local file cannot be read."""

    code = "unreadable_file"


_BY_STATUS: Mapping[str, type[ClientError]] = MappingProxyType(
    {
        "INVALID_ARGUMENT": InvalidRequest,
        "OUT_OF_RANGE": InvalidRequest,
        "FAILED_PRECONDITION": InvalidRequest,
        "UNAUTHENTICATED": Unauthenticated,
        "PERMISSION_DENIED": Unauthenticated,
        "NOT_FOUND": NotFound,
        "RESOURCE_EXHAUSTED": Overloaded,
        "UNAVAILABLE": Unavailable,
        "DEADLINE_EXCEEDED": DeadlineExceeded,
    }
)
BY_CODE: Mapping[str, type[ClientError]] = MappingProxyType(
    {
        "invalid_request": InvalidRequest,
        "invalid_image": InvalidRequest,
        "invalid_text": InvalidRequest,
        "context_length_exceeded": InvalidRequest,
        "url_not_allowed": InvalidRequest,
        "url_failed": InvalidRequest,
        "too_large": InvalidRequest,
        "unauthenticated": Unauthenticated,
        "model_not_found": NotFound,
        "label_set_not_found": NotFound,
        "overloaded": Overloaded,
        "quota_exceeded": Overloaded,
        "unavailable": Unavailable,
        "wrong_model": Unavailable,
        "deadline_exceeded": DeadlineExceeded,
        "internal_error": ServiceFailed,
    }
)
# Neither side ended the call on purpose: a proxy, a restart, a lost connection.
_BROKEN = frozenset({"CANCELLED", "ABORTED"})
# Without a code of the service, gRPC's own: the port is closed, or the call ended while writing.
_OF_GRPC = frozenset({"UNAVAILABLE", "INTERNAL"})


def of_call(error: "grpc.RpcError", address: str) -> ClientError:
    """Map a gRPC status to an error."""
    status, details = error.code().name, error.details() or ""
    trailing = {key: value for key, value in error.trailing_metadata() or () if value}
    code, param = trailing.get("error-code"), trailing.get("error-param")
    if status in _BROKEN or (status in _OF_GRPC and code is None):
        return ConnectionFailed(f"no connection to {address}: {details}")
    if status == "UNIMPLEMENTED":
        return ServiceFailed(f"{address} does not speak openclip.v1.ClipService: {details}")
    if status == "RESOURCE_EXHAUSTED" and code is None:  # gRPC's own limit
        return InvalidRequest(details, code="too_large")
    kind = _BY_STATUS.get(status, ServiceFailed)
    message = details or f"the service answered {status}"
    found = kind(message, code=code, param=param, retry_after_s=_seconds(trailing))
    if param and param.endswith("]"):  # one of several items: name it in the message
        found.locate(param)
    return found


def of_item(error: "pb.Error") -> ClientError:
    """Map the error of one item of a request or a stream."""
    kind = BY_CODE.get(error.code, InvalidRequest)
    return kind(
        error.message, code=error.code, param=error.param or None, retryable=error.retryable
    )


def _seconds(trailing: Mapping[str, str]) -> float:
    """The wait time from the service, in gRPC's or HTTP's format; 0 if there is none."""
    for key, unit in (("grpc-retry-pushback-ms", 1e-3), ("retry-after", 1.0)):
        if key in trailing:
            with suppress(ValueError):
                return max(0.0, float(trailing[key]) * unit)
    return 0.0
