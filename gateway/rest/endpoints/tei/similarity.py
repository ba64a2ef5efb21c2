"""`/similarity`: the cosines of one text or image with several."""

from fastapi import Response
from pydantic import ConfigDict, RootModel

from gateway.models.values import Ranked
from gateway.pipeline import requests
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.endpoints.tei.fields import Direction, Model, Prompt, Truncate, check_given
from gateway.rest.endpoints.tei.problems import TeiEndpoint
from gateway.rest.intake import Work


class SimilarityInput(fields.Request):
    """A text and those that it is compared with; images as data URLs."""

    source_sentence: fields.NotEmpty
    sentences: fields.TextList


class SimilarityParameters(fields.Request):
    """How the texts are tokenized."""

    truncate: Truncate = None
    truncation_direction: Direction = None
    prompt_name: Prompt = None


class TeiSimilarityRequest(fields.Request):
    """TEI's request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": {
                        "source_sentence": "a red circle",
                        "sentences": ["a blue star", "a photo of a red circle."],
                    }
                }
            ]
        }
    )

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None
    model: Model = None


class TeiSimilarityResponse(RootModel[list[float]]):
    """The cosine with each of the sentences."""


@TeiEndpoint.at(
    "/similarity",
    "Compare one text or image with several, in TEI's shape",
    TeiSimilarityRequest,
    TeiSimilarityResponse,
)
async def tei_similarity(engine: Engine, work: Work, body: TeiSimilarityRequest) -> Response:
    """The cosine of one text or image with each of several."""
    options = body.parameters or SimilarityParameters()
    given = body.inputs
    ranked = await ranked_by_cosine(
        engine, work, body.model, (given.source_sentence, "inputs.source_sentence"),
        (given.sentences, "inputs.sentences"), options.truncate,
    )  # fmt: skip
    cosines = [cosine for _, cosine in sorted(ranked.order)]
    return convert.answer(cosines, ranked.manifest, work.record)


async def ranked_by_cosine(
    engine: Engine, work: Work, model: str | None, query: tuple[str, str],
    others: tuple[list[str], str], truncate: bool | None,
) -> Ranked:  # fmt: skip
    """The others by their cosine with the query; each comes with its field in the request."""
    given, param = others
    check_given(given, param)
    inference_request = requests.Rerank(
        model,
        convert.item(*query),
        convert.items(given, param),
        truncate=truncate is not False,
        param=param,
    )
    return await work.run(engine.rerank(inference_request, work.record))
