"""`POST /v1/similarity`: every image compared with every text."""

from typing import Any, Literal

import numpy as np
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, openapi
from gateway.rest.convert import Usage
from gateway.rest.endpoint import Endpoint
from gateway.rest.fields import RED_CIRCLE, ModelName, OfImages, Strings
from gateway.rest.intake import Work

_EXAMPLES: list[JsonValue] = [
    {"model": "demo", "texts": ["red circle", "blue star"], "images": [RED_CIRCLE]}
]


class SimilarityRequest(OfImages):
    """Texts and images to compare, each with each."""

    model_config = ConfigDict(
        json_schema_extra={"examples": _EXAMPLES, **openapi.either("image", "images")}
    )

    model: ModelName = None
    texts: Strings


class SimilarityResponse(BaseModel):
    """Every image compared with every text."""

    object: Literal["similarity"] = "similarity"
    model: str
    cosine: list[list[float]] = Field(description="A row for each image, a column for each text.")
    logits_per_image: list[list[float]] = Field(
        description="`logit_scale * cosine`, with `logit_bias` added for SigLIP models."
    )
    logits_per_text: list[list[float]] = Field(description="The same, a row for each text.")
    truncated: list[int] | None = Field(
        None, description="Indices of texts that were cut; left out where none was."
    )
    usage: Usage


@Endpoint.at(
    "/v1/similarity",
    "Compare images with texts",
    SimilarityRequest,
    SimilarityResponse,
    images=True,
)
async def similarity(engine: Engine, work: Work, body: SimilarityRequest) -> Response:
    """The cosine of every image with every text, and OpenCLIP's logits."""
    inference_request = requests.Similarity(
        body.model,
        convert.texts(body.texts, "texts"),
        convert.images(body.image, body.images),
    )
    compared = await work.run(engine.similarity(inference_request, work.record))
    matrices = (compared.cosine, compared.logits, compared.logits.T)
    cosine, per_image, per_text = await in_thread_if_large(
        lambda: [convert.fragments(np.ascontiguousarray(each)) for each in matrices],
        values=compared.cosine.size,
    )
    content: dict[str, Any] = {
        "object": "similarity",
        "model": compared.manifest.id,
        "cosine": cosine,
        "logits_per_image": per_image,
        "logits_per_text": per_text,
        "usage": convert.usage(compared.tokens, compared.images),
    }
    if any(compared.truncated):
        content["truncated"] = [i for i, cut in enumerate(compared.truncated) if cut]
    return convert.answer(content, compared.manifest, work.record)
