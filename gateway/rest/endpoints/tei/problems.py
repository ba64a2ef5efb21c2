"""TEI's errors, and the service's own in their shape."""

from dataclasses import dataclass
from typing import Literal

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from gateway import errors
from gateway.errors import GatewayError
from gateway.pipeline.engine import Engine
from gateway.rest.endpoint import Endpoint
from gateway.rest.intake import Intake
from gateway.rest.problems import rendered

FAILURES = (400, 401, 404, 413, 422, 429, 500, 503, 504)
ErrorType = Literal["Backend", "Empty", "Overloaded", "Tokenizer", "Unhealthy", "Validation"]
_TYPES: dict[type[GatewayError], ErrorType] = {  # Validation for all others
    errors.TextError: "Tokenizer",
    errors.Overloaded: "Overloaded",
    errors.QuotaExceeded: "Overloaded",
    errors.Unavailable: "Unhealthy",
    errors.DeadlineExceeded: "Backend",
    errors.InferenceFailed: "Backend",
}
TOO_LONG = "context_length_exceeded"
EMPTY = "empty"


class TeiErrorResponse(BaseModel):
    """TEI's error. A missing key and an unknown path get the service's own."""

    error: str
    error_type: ErrorType


def problem(error: GatewayError, request: Request) -> Response:
    """TEI's answer to an error; statuses from 500 on are the service's own."""
    ours = rendered(error, request.scope["state"]["record"])
    kind, status = _TYPES.get(type(error), "Validation"), ours.status_code
    if error.code == TOO_LONG:
        kind, status = "Validation", 413
    elif error.code == EMPTY:
        kind = "Empty"
    elif status == 400:
        status = 422
    message = orjson.loads(ours.body)["error"]["message"]
    if error.param and error.param not in message:  # TEI's errors have no field for it
        message = f"{error.param}: {message}"
    content = {"error": message, "error_type": kind}
    headers = {name: v for name, v in ours.headers.items() if not name.startswith("content-")}
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


@dataclass(frozen=True)
class TeiEndpoint(Endpoint):
    """A route that answers errors as TEI does."""

    failures: tuple[int, ...] = FAILURES
    failed: type[BaseModel] = TeiErrorResponse

    async def handle(self, engine: Engine, intake: Intake, request: Request) -> Response:
        """See `Endpoint.handle`; raises nothing."""
        try:
            return await super().handle(engine, intake, request)
        except GatewayError as error:
            return problem(error, request)
