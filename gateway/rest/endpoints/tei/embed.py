"""`/embed`: the vectors of texts and images."""

from fastapi import Response
from pydantic import ConfigDict, RootModel

from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.endpoints.tei.fields import Direction, Model, Prompt, Truncate, texts
from gateway.rest.endpoints.tei.problems import TeiEndpoint
from gateway.rest.intake import Work


class TeiEmbedRequest(fields.Request):
    """TEI's request; an input may be an image as well, as a data URL."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": ["a photo of a red circle.", fields.RED_CIRCLE]}]
        }
    )

    inputs: fields.Texts
    model: Model = None
    normalize: fields.Normalized = True
    truncate: Truncate = None
    truncation_direction: Direction = None
    prompt_name: Prompt = None
    dimensions: fields.Dimensions = None


class TeiEmbedResponse(RootModel[list[list[float]]]):
    """The vectors, of unit length."""


@TeiEndpoint.at(
    "/embed",
    "Embed texts and images, in TEI's shape",
    TeiEmbedRequest,
    TeiEmbedResponse,
    other_paths=("/",),
)
async def tei_embed(engine: Engine, work: Work, body: TeiEmbedRequest) -> Response:
    """Also `POST /`, where `huggingface_hub.InferenceClient` sends it."""
    inference_request = requests.Embed(
        body.model,
        convert.items(texts(body.inputs, "inputs"), "inputs"),
        body.dimensions,
        truncate=body.truncate is not False,
        param="inputs",
    )
    embedded = await work.run(engine.embed(inference_request, work.record))
    with work.record.stage("encode"):
        rows = await in_thread_if_large(
            convert.fragments, embedded.vectors, values=embedded.vectors.size
        )
    return convert.answer(rows, embedded.manifest, work.record)
