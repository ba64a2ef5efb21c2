"""What can go wrong with a request, in the order of its way through the house.

GatewayError
├── Unauthenticated       no key, or none that is known
├── RequestError          the client can mend it
│   ├── MalformedRequest  not JSON, a wrong type, an unknown field
│   ├── TextError         cannot be tokenized, or too long where cutting was declined
│   ├── ImageError        cannot be decoded or resized
│   ├── UnknownModel      no such model is served
│   ├── UnknownLabelSet   no such label set
│   ├── TooLarge          body, item, image or batch over a limit
│   └── TooSlow           its body does not arrive
├── QuotaExceeded         the key has spent what it may have
├── Overloaded            no room for more work now
├── DeadlineExceeded      the time that the request had is over
├── Unavailable           Triton cannot be reached, or does not serve the model
└── InferenceFailed       our own fault; the message stays in the log

Nothing here knows HTTP: each edge maps the tree to its statuses in one table.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class GatewayError(Exception):
    """Base of all errors that a request can end in.

    Attributes:
        message: For the client; names what was wrong and where.
        param: The field of the request that it is about, such as `input[3]`, or None.
        code: A stable word for programs.
        retry_after_s: Seconds after which to ask again, where that is known.
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
    """The request has no API key, or none that is known."""

    code = "unauthenticated"


class RequestError(GatewayError):
    """The client can mend it."""

    code = "invalid_request"


class MalformedRequest(RequestError):
    """Not JSON, a wrong type, an unknown field, a value out of range."""


class TextError(RequestError):
    """A text cannot be tokenized, or is over the context length where cutting was declined."""

    code = "invalid_text"


class ImageError(RequestError):
    """An image cannot be decoded or resized."""

    code = "invalid_image"


class UnknownModel(RequestError):
    """No such model is served."""

    code = "model_not_found"


class UnknownLabelSet(RequestError):
    """No such label set."""

    code = "label_set_not_found"


class TooLarge(RequestError):
    """Body, item, image or batch over a limit; the message names the limit's setting."""

    code = "too_large"


class TooSlow(RequestError):
    """The body arrives more slowly than any client that is well sends."""

    code = "request_timeout"


class QuotaExceeded(GatewayError):
    """The key has spent what it may have; `retry_after_s` tells when there is more."""

    code = "quota_exceeded"


class Overloaded(GatewayError):
    """No room for more work now; the same request may succeed a little later."""

    code = "overloaded"


class DeadlineExceeded(GatewayError):
    """The time that the request had is over."""

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
    """The beginning of a message that is longer than anybody reads."""
    if len(message) <= MESSAGE_CHARACTERS:
        return message
    return message[:MESSAGE_CHARACTERS] + "..."


def quoted(sent: str) -> str:
    """What a client sent, as a message may repeat it: of a long text only the beginning."""
    if len(sent) <= QUOTED_CHARACTERS:
        return repr(sent)
    return f"{sent[:QUOTED_CHARACTERS]!r}..."


@contextmanager
def about(param: str) -> Iterator[None]:
    """Gives a request error that arises inside the field of the request that it is about."""
    try:
        yield
    except RequestError as error:
        error.param = error.param or param
        raise
