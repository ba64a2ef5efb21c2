"""`POST /v2/embed`: texts and images, in Cohere's shape."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from gateway.errors import MalformedRequest
from gateway.models.values import Item, Vectors
from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields, openapi
from gateway.rest.endpoint import Endpoint
from gateway.rest.endpoints.encodings import check_packed, encoded
from gateway.rest.endpoints.rerank import Meta, check_cut, coheres_meta
from gateway.rest.intake import Work

_EXAMPLES: list[JsonValue] = [
    {
        "model": "demo",
        "input_type": "search_query",
        "texts": ["a photo of a red circle."],
        "embedding_types": ["float", "int8"],
    },
    {"model": "demo", "images": [fields.RED_CIRCLE], "input_type": "image"},
]
_GIVEN = ("texts", "images", "inputs")


def _without_start(value: object) -> object:
    if value == "START":
        raise ValueError("must be END or NONE: text is cut at its end")
    return value


class EmbedInput(fields.Request):
    """One text or one image."""

    content: list[fields.Part] = Field(
        min_length=1, max_length=1, description="One: CLIP embeds one thing at a time."
    )


class CohereEmbedRequest(fields.Request):
    """Cohere's request: one of `texts`, `images` and `inputs`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": _EXAMPLES,
            **openapi.either(*_GIVEN),
            **openapi.packed("embedding_types", "output_dimension"),
        }
    )

    model: fields.ModelName = None
    texts: fields.OneOrMore[fields.NotEmpty] | None = None
    images: fields.Strings | None = Field(None, description="Data URLs, or base64 alone.")
    inputs: fields.OneOrMore[EmbedInput] | None = Field(
        None, description="Texts and images, mixed."
    )
    input_type: str | None = Field(None, description="Not used: CLIP has no task prefixes.")
    embedding_types: (
        Annotated[list[fields.EmbeddingType], Field(min_length=1, max_length=6)] | None
    ) = Field(
        None,
        description="`float` (default); `int8` and `uint8`: each vector scaled so that its largest "
        "entry is 127 from the middle; `binary` and `ubinary`: signs, eight to a number, of a "
        "multiple of 8 dimensions; `base64` of little-endian float32.",
    )
    output_dimension: fields.Dimensions = None
    max_tokens: fields.Count | None = Field(
        None, description="May not be less than the model's context length, which text is cut at."
    )
    truncate: Annotated[Literal["END", "NONE"] | None, BeforeValidator(_without_start)] = Field(
        None, description="`NONE` makes text over the context length an error."
    )


class EmbeddingsByType(BaseModel):
    """The vectors in each of the types that were asked for, in the order of the request."""

    model_config = ConfigDict(populate_by_name=True)

    float_: list[list[float]] | None = Field(None, alias="float")
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class CohereEmbedResponse(BaseModel):
    """Cohere's answer."""

    id: str = Field(description="Made of the request's id.")
    response_type: Literal["embeddings_by_type"]
    embeddings: EmbeddingsByType
    texts: list[str] | None = Field(None, description="As they were sent.")
    meta: Meta


@Endpoint.at(
    "/v2/embed",
    "Embed texts and images, in Cohere's shape",
    CohereEmbedRequest,
    CohereEmbedResponse,
)
async def cohere_embed(engine: Engine, work: Work, body: CohereEmbedRequest) -> Response:
    """Vectors have unit length, but for `int8` and `uint8`, which keep the cosines."""
    items, param = _items(body)
    check_cut("max_tokens", body.max_tokens, body.model, engine)
    kinds = list(dict.fromkeys(body.embedding_types or ["float"]))
    check_packed(kinds, body.output_dimension, "output_dimension", body.model, engine)
    inference_request = requests.Embed(
        body.model,
        items,
        body.output_dimension,
        truncate=body.truncate != "NONE",
        copies=len(kinds),
        param=param,
        dimensions_param="output_dimension",
    )
    embedded = await work.run(engine.embed(inference_request, work.record))
    vectors = embedded.vectors
    with work.record.stage("encode"):
        content: dict[str, Any] = {
            "id": f"embd-{work.record.request_id}",
            "response_type": "embeddings_by_type",
            "embeddings": await in_thread_if_large(
                _by_type, vectors, kinds, values=vectors.size * len(kinds)
            ),
            "meta": coheres_meta(embedded.tokens, "a text", cut=any(embedded.truncated)),
        }
        if body.texts is not None:
            content["texts"] = body.texts
    return convert.answer(content, embedded.manifest, work.record)


def _items(body: CohereEmbedRequest) -> tuple[list[Item], str]:
    """The items, and the field that holds them."""
    if sum(getattr(body, name) is not None for name in _GIVEN) != 1:
        raise MalformedRequest("body: give one of `texts`, `images`, `inputs`")
    if body.texts is not None:
        return convert.items(body.texts, "texts", "text"), "texts"
    if body.images is not None:
        return convert.items(body.images, "images", "image"), "images"
    return [
        convert.part(each.content[0], f"inputs[{index}].content[0]")
        for index, each in enumerate(body.inputs or ())
    ], "inputs"


def _by_type(vectors: Vectors, kinds: Sequence[str]) -> dict[str, list[orjson.Fragment]]:
    return {kind: convert.fragments(encoded(vectors, kind)) for kind in kinds}
