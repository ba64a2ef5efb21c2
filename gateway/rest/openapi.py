"""The OpenAPI document. Handlers read bodies themselves, so FastAPI does not know their schemas."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.config import JsonDict
from pydantic.json_schema import models_json_schema

from gateway.rest.problems import ErrorResponse
from gateway.rest.security import is_open

_REFERENCE = "#/components/schemas/{model}"
_BYTES: JsonDict = {"schema": {"type": "string", "format": "binary"}}
BYTES: JsonDict = {"application/octet-stream": _BYTES}
MARKDOWN: JsonDict = {"text/markdown": {"schema": {"type": "string"}}}

_MEANINGS = {
    400: "The request is malformed, or an item cannot be embedded; `param` says which.",
    401: "An API key is needed, as `Authorization: Bearer <key>`, or it is not known.",
    404: "No such model is served, or there is no such label set.",
    413: "The body, an image, a text or the batch is over a limit; the message names it.",
    422: "A wrong type or value, an unknown field, or an item that cannot be embedded.",
    429: "No room for more work now, or the key's quota is spent; see `retry-after`.",
    500: "Our own fault; the message holds the request id.",
    503: "Triton cannot be reached or does not serve the model; see `retry-after`.",
    504: "The request ran out of time.",
}
_NULL: JsonDict = {"type": "null"}
_FASTAPIS = "Validation Error"  # what FastAPI says of its own 422
_EVERY_ANSWER = {"x-request-id": "The request's id: the caller's own, or a new one."}
_OF_MODEL = {
    "x-model-fingerprint": "Names the space that the vectors live in.",
    "server-timing": "Milliseconds by stage.",
}
_OF_PACKED = {"x-embedding-shape": "Rows and columns, where the answer is packed float32."}
_RETRY = {"retry-after": "Seconds after which to ask again."}
_OF_STATUS = {401: {"www-authenticate": "`Bearer`."}, 429: _RETRY, 503: _RETRY}
_SCHEMES = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
_TIMEOUT = {
    "name": "x-request-timeout-ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds after which the answer is of no use; at most what is set.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}


def either(*names: str) -> JsonDict:
    """In JSON Schema: one of these fields is given, and the others are null or left out."""
    return {
        "oneOf": [
            {
                "required": [name],
                "properties": {each: {"not": _NULL} if each == name else _NULL for each in names},
            }
            for name in names
        ]
    }


def not_both(one: str, other: str) -> JsonDict:
    """In JSON Schema: at least one of these fields is null or left out."""
    return {"anyOf": [{"properties": {name: _NULL}} for name in (one, other)]}


def packed(name: str, dimensions: str = "dimensions") -> JsonDict:
    """In JSON Schema: where this field has packed signs, `dimensions` is a multiple of 8."""
    signs: JsonDict = {"enum": ["binary", "ubinary"]}
    one_or_list: JsonDict = {"anyOf": [signs, {"type": "array", "contains": signs}]}
    asked: JsonDict = {"properties": {name: one_or_list}, "required": [name]}
    return {"anyOf": [{"not": asked}, {"properties": {dimensions: {"multipleOf": 8}}}]}


def json_body(schema: type[BaseModel]) -> dict[str, Any]:
    """What a route says of its JSON body, as `openapi_extra`."""
    reference = {"$ref": _REFERENCE.format(model=schema.__name__)}
    return {
        "parameters": [_TIMEOUT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
    }


def image_body(options: type[BaseModel]) -> dict[str, Any]:
    """What the upload of images says of its body and its options, as `openapi_extra`."""
    query = options.model_json_schema()["properties"]
    files = {"type": "array", "items": _BYTES["schema"], "minItems": 1}  # binary: of an image
    form = {
        "schema": {
            "type": "object",
            "description": "The options may be fields of the form as well, in place of the query.",
            "properties": {"files": files},
            "required": ["files"],
            "additionalProperties": False,
        }
    }
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in query.items()
        ]
        + [_TIMEOUT],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": _BYTES,
                **BYTES,
                "multipart/form-data": form,
            },
        },
    }


def answers(
    schema: type[BaseModel] | None,
    *statuses: int,
    content: JsonDict | None = None,
    vectors: bool = False,
    failed: type[BaseModel] = ErrorResponse,
) -> dict[int | str, dict[str, Any]]:
    """What a route says of its answers, as `responses`.

    `schema` is that of a 200 in JSON, `content` what it is in other media types, and `failed` the
    schema of the errors of these statuses; `vectors`: whether a model's vectors went into it.
    """
    named = (_OF_MODEL if vectors else {}) | (_OF_PACKED if vectors and content else {})
    done: dict[str, Any] = {"description": "Done.", "headers": _headers(named)}
    if schema is not None:
        done["model"] = schema
    if content is not None:
        done["content"] = dict(content)  # FastAPI adds that of the schema to it
    described: dict[int | str, dict[str, Any]] = {200: done}
    for status in statuses:
        described[status] = {
            "model": failed,
            "description": _MEANINGS[status],
            "headers": _headers(_OF_STATUS.get(status, {})),
        }
    return described


def _headers(named: dict[str, str]) -> dict[str, Any]:
    return {
        name: {
            "description": said,
            "required": name not in _OF_PACKED,
            "schema": {"type": "string"},
        }
        for name, said in (_EVERY_ANSWER | named).items()
    }


def install(app: FastAPI, requests: Iterable[type[BaseModel]], *, keys: bool) -> None:
    """Make the app's document hold the schemas of request bodies, and whether calls need a key."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            _, definitions = models_json_schema(
                [(model, "validation") for model in requests], ref_template=_REFERENCE
            )
            schema["components"]["schemas"].update(definitions["$defs"])
            if keys:
                schema["components"]["securitySchemes"] = _SCHEMES
                schema["security"] = [{name: []} for name in _SCHEMES]
            for path, methods in schema["paths"].items():
                for method, operation in methods.items():
                    if keys and is_open({"path": path, "method": method.upper()}):
                        operation["security"] = []
                    # FastAPI's own, for parameters that it checks; ours are any string.
                    if operation["responses"].get("422", {}).get("description") == _FASTAPIS:
                        del operation["responses"]["422"]
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's documented way to extend it
