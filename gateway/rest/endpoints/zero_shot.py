"""`POST /v1/zero-shot`: images classified by labels."""

from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.models.values import Classified
from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields, openapi
from gateway.rest.convert import Usage
from gateway.rest.endpoint import Endpoint
from gateway.rest.intake import Work
from gateway.telemetry.record import Record

_EXAMPLES: list[JsonValue] = [
    {
        "model": "demo",
        "image": fields.RED_CIRCLE,
        "labels": ["red circle", "blue star", "green square"],
        "templates": ["a photo of a {}."],
        "top_k": 2,
    }
]


class ZeroShotRequest(fields.OfImages):
    """Images to classify by labels."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": _EXAMPLES,
            "allOf": [
                openapi.either("image", "images"),
                openapi.either("labels", "label_set"),
                openapi.not_both("label_set", "templates"),
            ],
        }
    )

    model: fields.ModelName = None
    labels: fields.Strings | None = Field(None, description="What to choose among; or `label_set`.")
    label_set: fields.Name | None = Field(
        None, description="A set of labels with templates that the service holds."
    )
    templates: fields.Templates | None = Field(
        None,
        description="Texts with `{}` where the label goes, or the name of a template set; a "
        "label's vector is the mean over them. If left out, labels are taken as they are.",
    )
    top_k: fields.Count | None = Field(
        None, description="Number of labels to return per image, best first; all if left out."
    )


class PredictionObject(BaseModel):
    """One label with its score."""

    label: str
    index: int = Field(description="Of the label in the request, or in its label set.")
    score: float = Field(description="Softmax over the labels; for SigLIP models a sigmoid.")
    cosine: float


class ImagePredictions(BaseModel):
    """The labels of one image, best first."""

    index: int = Field(description="Of the image in the request.")
    predictions: list[PredictionObject]


class ZeroShotResponse(BaseModel):
    """Predictions for every image, in the order of the request."""

    object: Literal["zero_shot"] = "zero_shot"
    model: str
    results: list[ImagePredictions]
    truncated: bool | None = Field(
        None, description="`true` if a label in its template was cut; else left out."
    )
    usage: Usage


@Endpoint.at(
    "/v1/zero-shot", "Classify images by labels", ZeroShotRequest, ZeroShotResponse, images=True
)
async def zero_shot(engine: Engine, work: Work, body: ZeroShotRequest) -> Response:
    """Scores are a softmax over the labels, or for SigLIP models a sigmoid for each."""
    inference_request = requests.Classify(
        body.model,
        convert.images(body.image, body.images),
        body.labels,
        body.label_set,
        body.templates,
        body.top_k,
    )
    classified = await work.run(engine.classify(inference_request, work.record))
    values = sum(map(len, classified.predictions))
    return await in_thread_if_large(_classified, classified, work.record, values=values)


def _classified(classified: Classified, record: Record) -> Response:
    content: dict[str, Any] = {
        "object": "zero_shot",
        "model": classified.manifest.id,
        "results": [
            {"index": index, "predictions": entries}
            for index, entries in enumerate(classified.predictions)
        ],
        "usage": convert.usage(classified.tokens, classified.images),
    }
    if classified.truncated:
        content["truncated"] = True
    return convert.answer(content, classified.manifest, record)
