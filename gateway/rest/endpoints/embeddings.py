"""`POST /v1/embeddings`: texts and images, in the shapes that clients of other services send."""

import time
from typing import Annotated, Literal

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.errors import MalformedRequest
from gateway.models.values import Embedded, Item, TextItem
from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields, openapi
from gateway.rest.convert import Usage
from gateway.rest.endpoint import Endpoint
from gateway.rest.endpoints.encodings import check_packed, encoded
from gateway.rest.intake import Work
from gateway.rest.problems import ErrorObject, error_object

_EXAMPLES: list[JsonValue] = [
    {"model": "demo", "input": "a photo of a red circle.", "dimensions": 4},
    {"model": "demo", "input": ["a photo of a red circle.", fields.RED_CIRCLE], "dimensions": 4},
    {
        "model": "demo",
        "input": [{"text": "a red circle"}, {"image": fields.RED_CIRCLE}],
        "encoding_format": "base64",
    },
    {"model": "demo", "input": "a red circle", "dimensions": 16, "encoding_format": "int8"},
]


class EmbeddingsRequest(fields.Request):
    """OpenAI's request, and what NV-CLIP's, infinity's, Jina's and vLLM's clients send."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": _EXAMPLES,
            "allOf": [
                openapi.either("input", "messages"),
                openapi.not_both("encoding_format", "embedding_type"),
                *(openapi.packed(name) for name in ("encoding_format", "embedding_type")),
            ],
        }
    )

    model: fields.ModelName = None
    input: fields.Input | None = Field(
        None,
        description="Text or image, or a list of them: a string, `data:image/...;base64,...`, "
        '`{"text": ...}` or `{"image": ...}`.',
    )
    messages: Annotated[list[fields.Message], Field(min_length=1, max_length=1)] | None = Field(
        None, description="In place of `input`, vLLM's form: one message, one text or image."
    )
    modality: Literal["text", "image"] | None = Field(
        None,
        description="What the strings of `input` are; if left out, those that begin with "
        "`data:image/` or `data:...;base64,` are images and all others texts.",
    )
    encoding_format: fields.EmbeddingType | None = Field(
        None,
        description="`float` (default); `base64` of little-endian float32; `int8` and `uint8`: "
        "each vector scaled so that its largest entry is 127 from the middle; `binary` (int8) and "
        "`ubinary` (uint8): signs, eight to a number, of a multiple of 8 `dimensions`.",
    )
    embedding_type: fields.EmbeddingType | None = Field(
        None, description="Jina's name for the same, in place of `encoding_format`."
    )
    dimensions: fields.Dimensions = None
    truncate: fields.Flag | None = Field(
        True, description="Cut text over the context length; `false` or `NONE` makes it an error."
    )
    truncation: bool | None = Field(
        None, description="Another name of `truncate`; `false` in either makes it an error."
    )
    on_error: Literal["fail", "skip"] | None = Field(
        "fail", description="`skip`: a bad item becomes an error object in its place."
    )
    normalized: fields.Normalized = Field(
        True, description="Jina's; vectors always have unit length."
    )
    late_chunking: fields.LateChunking = Field(
        False, description="Jina's; each item is embedded by itself."
    )
    task: str | None = Field(None, description="Jina's; not used: CLIP has no task prefixes.")
    input_type: str | None = Field(None, description="NVIDIA's; not used, as `task`.")
    user: str | None = Field(None, description="OpenAI's end-user id; not used.")


class EmbeddingObject(BaseModel):
    """One embedding."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | list[int] | str = Field(
        description="Of unit length, or as `encoding_format` says."
    )
    truncated: bool | None = Field(None, description="`true` where text was cut; else left out.")


class FailedObject(BaseModel):
    """What stands in the place of a bad item, where `on_error` is `skip`."""

    object: Literal["error"] = "error"
    index: int
    error: ErrorObject


class EmbeddingsResponse(BaseModel):
    """OpenAI's answer."""

    id: str = Field(description="Made of the request's id.")
    object: Literal["list"] = "list"
    created: int = Field(description="Seconds since 1970.")
    data: list[EmbeddingObject | FailedObject]
    model: str
    usage: Usage


@Endpoint.at(
    "/v1/embeddings",
    "Embed texts and images",
    EmbeddingsRequest,
    EmbeddingsResponse,
    other_paths=("/embeddings",),  # infinity's
)
async def embeddings(engine: Engine, work: Work, body: EmbeddingsRequest) -> Response:
    """Texts and images may be mixed. Vectors have unit length, but for `int8` and `uint8`."""
    return await embed(engine, work, body)


async def embed(
    engine: Engine, work: Work, body: EmbeddingsRequest, *, bulk: bool = False
) -> Response:
    """The answer of `/v1/embeddings`; `bulk`: behind those that need a quick one."""
    if body.encoding_format and body.embedding_type:
        raise MalformedRequest("body: give either `encoding_format` or `embedding_type`")
    encoding = body.encoding_format or body.embedding_type or "float"
    check_packed({encoding}, body.dimensions, "dimensions", body.model, engine)
    inference_request = requests.Embed(
        body.model,
        _items(body),
        body.dimensions,
        truncate=body.truncate is not False and body.truncation is not False,
        skip=body.on_error == "skip",
        bulk=bulk,
    )
    embedded = await work.run(engine.embed(inference_request, work.record))
    return await answer(embedded, encoding, work)


async def answer(embedded: Embedded, encoding: str, work: Work) -> Response:
    """OpenAI's answer."""
    with work.record.stage("encode"):
        content = {
            "id": f"embd-{work.record.request_id}",
            "object": "list",
            "created": int(time.time()),
            "data": await in_thread_if_large(
                _data, embedded, encoding, values=embedded.vectors.size
            ),
            "model": embedded.manifest.id,
            "usage": convert.usage(embedded.tokens, embedded.images),
        }
    return convert.answer(content, embedded.manifest, work.record)


def _data(embedded: Embedded, encoding: str) -> list[orjson.Fragment]:
    return convert.fragments(
        {"object": "error", "index": index, "error": error_object(embedded.failed[index])}
        if index in embedded.failed
        else {"object": "embedding", "index": index, "embedding": row}
        | ({"truncated": True} if embedded.truncated[index] else {})
        for index, row in enumerate(encoded(embedded.vectors, encoding))
    )


def _items(body: EmbeddingsRequest) -> list[Item]:
    if (body.input is None) == (body.messages is None):
        raise MalformedRequest("input: give either `input` or `messages`", param="input")
    if body.messages is not None:
        return [_of_message(body.messages[0])]
    if isinstance(body.input, list):
        return convert.items(body.input, "input", body.modality)
    return [] if body.input is None else [convert.item(body.input, "input", body.modality)]


def _of_message(message: fields.Message) -> Item:
    where = "messages[0].content"
    if isinstance(message.content, str):
        return TextItem(message.content, where)
    return convert.part(message.content[0], f"{where}[0]")
