"""The errors that a request can end in, in the order of its way through the house.

GatewayError
├── Unauthenticated       no API key, or an unknown one
├── Overloaded            no permit, or Triton's queue is full
├── RequestError          the client can correct it
│   ├── TooSlow           the body arrives too slowly
│   ├── TooLarge          body, item, image or batch over a limit
│   ├── MalformedRequest  not JSON, a wrong type, an unknown field
│   ├── UnknownModel      no such model is served
│   ├── UnknownLabelSet   no such label set
│   ├── UnknownObject     no such file or batch
│   ├── TextError         cannot be tokenized, or too long where truncation was declined
│   └── ImageError        cannot be decoded or resized
├── QuotaExceeded         the key has used up its quota
├── DeadlineExceeded      the deadline of the request has passed
├── Unavailable           Triton cannot be reached, or does not serve the model
└── InferenceFailed       our own fault; the message stays in the log

Nothing here knows HTTP or gRPC: each edge maps the tree to its statuses in one table.
"""


class GatewayError(Exception):
    """Base of all errors that a request can end in.

    Attributes:
        message: For the client; says what was wrong and where.
        param: The field of the request that is wrong, such as `input[3]`, or None.
        code: A stable word for programs.
        retry_after_s: Seconds after which to try again, where that is known.
    """

    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s


class Unauthenticated(GatewayError):
    """The request has no API key, or an unknown one."""

    code = "unauthenticated"


class Overloaded(GatewayError):
    """There is no room for more work now; the same request may succeed later."""

    code = "overloaded"


class RequestError(GatewayError):
    """The client can correct the request."""

    code = "invalid_request"


class TooSlow(RequestError):
    """The body arrives more slowly than a healthy client sends."""

    code = "request_timeout"


class TooLarge(RequestError):
    """Body, item, image or batch over a limit; the message names the limit's setting."""

    code = "too_large"


class MalformedRequest(RequestError):
    """Not JSON, a wrong type, an unknown field, a value out of range."""


class UnknownModel(RequestError):
    """No such model is served."""

    code = "model_not_found"


class UnknownLabelSet(RequestError):
    """No such label set."""

    code = "label_set_not_found"


class UnknownObject(RequestError):
    """The client has no such file or batch."""

    code = "object_not_found"


class TextError(RequestError):
    """A text cannot be tokenized, or exceeds the context length where truncation was declined."""

    code = "invalid_text"


class ImageError(RequestError):
    """An image cannot be decoded or resized."""

    code = "invalid_image"


class QuotaExceeded(GatewayError):
    """The key has used up its quota; `retry_after_s` says when there is more."""

    code = "quota_exceeded"


class DeadlineExceeded(GatewayError):
    """The deadline of the request has passed."""

    code = "deadline_exceeded"


class Unavailable(GatewayError):
    """Triton cannot be reached, or does not serve the model."""

    code = "unavailable"


class InferenceFailed(GatewayError):
    """Our own fault; the message is for the log, not for the client."""

    code = "internal_error"


QUOTED_CHARACTERS = 100
MESSAGE_CHARACTERS = 2_000


def shortened(message: str) -> str:
    """The message, cut to `MESSAGE_CHARACTERS`."""
    if len(message) <= MESSAGE_CHARACTERS:
        return message
    return message[:MESSAGE_CHARACTERS] + "..."


def quoted(sent: str) -> str:
    """Quote a client's text for a message, cut to `QUOTED_CHARACTERS`."""
    if len(sent) <= QUOTED_CHARACTERS:
        return repr(sent)
    return f"{sent[:QUOTED_CHARACTERS]!r}..."
