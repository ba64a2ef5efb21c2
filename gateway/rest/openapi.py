"""The OpenAPI document. Routes read bodies themselves, so they name their schemas here."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.rest.schemas import EmbeddingsRequest, ErrorResponse, ZeroShotRequest

_REFERENCE = "#/components/schemas/{model}"
_REQUESTS: tuple[type[BaseModel], ...] = (EmbeddingsRequest, ZeroShotRequest)

_MEANINGS = {
    400: "The request is malformed, or an item cannot be embedded; `param` says which.",
    404: "No such model is served.",
    413: "The body, an image, a text or the batch is over a limit; the message names it.",
    429: "No room for more work now; see `retry-after`.",
    500: "Our own fault; the message holds the request id.",
    503: "Triton cannot be reached or does not serve the model; see `retry-after`.",
    504: "The request ran out of time.",
}


def body(schema: type[BaseModel]) -> dict[str, Any]:
    """What a route says of its body, as `openapi_extra`."""
    reference = {"$ref": _REFERENCE.format(model=schema.__name__)}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}
    }


def answers(schema: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says of its answers, as `responses`."""
    described: dict[int | str, dict[str, Any]] = {
        200: {"model": schema, "description": "Done."},
    }
    for status in statuses:
        described[status] = {"model": ErrorResponse, "description": _MEANINGS[status]}
    return described


def install(app: FastAPI) -> None:
    """Makes the app's document hold the schemas of the request bodies as well."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            _, definitions = models_json_schema(
                [(model, "validation") for model in _REQUESTS], ref_template=_REFERENCE
            )
            schema["components"]["schemas"].update(definitions["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's documented way to extend it
