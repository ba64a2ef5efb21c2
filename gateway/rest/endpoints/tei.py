"""`/embed`, `/similarity` and `/rerank` in the shapes and errors of text-embeddings-inference."""

from collections.abc import Awaitable, Callable, Sized
from functools import wraps
from typing import Annotated, Literal

import orjson
from fastapi import Request, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    RootModel,
    Tag,
)

from gateway import errors
from gateway.errors import GatewayError, MalformedRequest, TextError
from gateway.models.values import Ranked
from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.endpoint import FAILURES, Endpoint
from gateway.rest.endpoints.rerank import InfinityRerankResponse, RerankRequest, infinitys
from gateway.rest.intake import Intake, Work
from gateway.rest.problems import ErrorResponse, rendered

TEIS_FAILURES = (400, 401, 404, 413, 422, 429, 500, 503, 504)
ErrorType = Literal["Backend", "Empty", "Overloaded", "Tokenizer", "Unhealthy", "Validation"]
_TYPES: dict[type[GatewayError], ErrorType] = {  # of others it is Validation
    errors.TextError: "Tokenizer",
    errors.Overloaded: "Overloaded",
    errors.QuotaExceeded: "Overloaded",
    errors.Unavailable: "Unhealthy",
    errors.DeadlineExceeded: "Backend",
    errors.InferenceFailed: "Backend",
}
_RERANK: JsonValue = {
    "query": "a red circle", "texts": ["a blue star", "a photo of a red circle."]
}  # fmt: skip
_TOO_LONG = "context_length_exceeded"
_EMPTY = "empty"

Handler = Callable[[Engine, Intake, Request], Awaitable[Response]]


class TeiErrorResponse(BaseModel):
    """TEI's error. A missing key, and what is no request of a route, have the service's own."""

    error: str
    error_type: ErrorType


def problem(error: GatewayError, request: Request) -> Response:
    """An error as TEI answers it; statuses from 500 on are the service's own."""
    ours = rendered(error, request.scope["state"]["record"])
    kind, status = _TYPES.get(type(error), "Validation"), ours.status_code
    if error.code == _TOO_LONG:
        kind, status = "Validation", 413
    elif error.code == _EMPTY:
        kind = "Empty"
    elif status == 400:
        status = 422
    said = {"error": orjson.loads(ours.body)["error"]["message"], "error_type": kind}
    headers = {name: ours.headers[name] for name in ("retry-after",) if name in ours.headers}
    return Response(orjson.dumps(said), status, headers, media_type="application/json")


def in_teis_words(handler: Handler) -> Handler:
    """The handler, with its errors as TEI answers them."""

    @wraps(handler)
    async def answered(engine: Engine, intake: Intake, request: Request) -> Response:
        try:
            return await handler(engine, intake, request)
        except GatewayError as error:
            return problem(error, request)

    return answered


def check_given(given: Sized, name: str) -> None:
    """Checks that a list is not empty. Raises MalformedRequest: it is."""
    if not given:
        raise MalformedRequest(f"`{name}` cannot be empty", param=name, code=_EMPTY)


def texts(given: str | list[str], name: str) -> list[str]:
    """The text or texts of a field. Raises MalformedRequest: there is none."""
    if isinstance(given, str):
        return [given]
    check_given(given, name)
    return given


def _from_the_right(value: object) -> object:
    if value in ("left", "Left"):
        raise ValueError("must be Right: text is cut at its end")
    return value


def _no_prompts(value: object) -> None:
    if value is not None:
        raise ValueError("must be null: CLIP has no prompts; write them into the text")


Truncate = Annotated[
    bool | None,
    Field(description="`false` makes text over the context length an error; else it is cut."),
]
Direction = Annotated[Literal["Right", "right"] | None, BeforeValidator(_from_the_right)]
Prompt = Annotated[None, Field(description="There are none."), BeforeValidator(_no_prompts)]
Model = Annotated[fields.ModelName, Field(description="Not TEI's: as in `/v1/embeddings`.")]


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


class SimilarityInput(fields.Request):
    """A text and those that it is compared with; images as data URLs."""

    source_sentence: str = Field(json_schema_extra=fields.NOT_EMPTY)
    sentences: Annotated[
        list[Annotated[str, Field(json_schema_extra=fields.NOT_EMPTY)]],
        Field(fail_fast=True, json_schema_extra={"minItems": 1}),
    ]


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


class TeiRerankRequest(fields.Request):
    """TEI's request; texts may be images, as data URLs."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RERANK]})

    query: str = Field(json_schema_extra=fields.NOT_EMPTY)
    texts: Annotated[
        list[Annotated[str, Field(json_schema_extra=fields.NOT_EMPTY)]],
        Field(fail_fast=True, json_schema_extra={"minItems": 1}),
    ]
    model: Model = None
    raw_scores: fields.RawScores = False
    return_text: bool | None = False
    truncate: Truncate = None
    truncation_direction: Direction = None


class Rank(BaseModel):
    """One text with its score."""

    index: int = Field(description="Of the text in the request.")
    score: float = Field(description="The cosine with the query, -1 to 1.")
    text: str | None = Field(None, description="With `return_text` only.")


def _whose(value: object) -> str:
    return "<texts>" if isinstance(value, dict) and "texts" in value else "<documents>"


class EitherRerankRequest(
    RootModel[
        Annotated[
            Annotated[RerankRequest, Tag("<documents>")]
            | Annotated[TeiRerankRequest, Tag("<texts>")],
            Discriminator(_whose),
        ]
    ]
):
    """infinity's request, with `documents`, or TEI's, with `texts`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "a red circle", "documents": ["a blue star"]}, _RERANK]
        }
    )


class EitherRerankResponse(RootModel[InfinityRerankResponse | list[Rank]]):
    """infinity's answer or TEI's, as the request was."""


class EitherErrorResponse(RootModel[ErrorResponse | TeiErrorResponse]):
    """The service's own error, or to TEI's requests TEI's."""


@in_teis_words
async def tei_embed(engine: Engine, intake: Intake, request: Request) -> Response:
    """Also `POST /`, where `huggingface_hub.InferenceClient` sends it."""
    async with intake.work(request) as work:
        body = await work.parse(TeiEmbedRequest)
        inference_request = requests.Embed(
            body.model or None,
            convert.items(texts(body.inputs, "inputs"), "inputs"),
            body.dimensions or None,
            truncate=body.truncate is not False,
        )
        embedded = await work.run(engine.embed(inference_request, work.record))
        with work.record.stage("encode"):
            rows = await in_thread_if_large(
                lambda: [convert.fragment(row) for row in embedded.vectors],
                values=embedded.vectors.size,
            )
        return convert.answer(rows, embedded.manifest, work.record)


@in_teis_words
async def tei_similarity(engine: Engine, intake: Intake, request: Request) -> Response:
    """The cosine of one text or image with each of several."""
    async with intake.work(request) as work:
        body = await work.parse(TeiSimilarityRequest)
        options = body.parameters or SimilarityParameters()
        given = body.inputs
        ranked = await _ranked(
            engine, work, body.model, (given.source_sentence, "inputs.source_sentence"),
            (given.sentences, "inputs.sentences"), options.truncate,
        )  # fmt: skip
        cosines = [cosine for _, cosine in sorted(ranked.order)]
        return convert.answer(cosines, ranked.manifest, work.record)


async def either_rerank(engine: Engine, intake: Intake, request: Request) -> Response:
    """`documents` are infinity's: as `/v1/rerank`, but a document comes back as a plain string.

    `texts` are TEI's: a list of ranks.
    """
    teis = False
    try:
        async with intake.work(request) as work:
            body = (await work.parse(EitherRerankRequest)).root
            if isinstance(body, RerankRequest):
                return await infinitys(engine, work, body)
            teis = True
            ranked = await _ranked(
                engine, work, body.model, (body.query, "query"), (body.texts, "texts"),
                body.truncate,
            )  # fmt: skip
            ranks = [
                {"index": index, "score": cosine}
                | ({"text": body.texts[index]} if body.return_text else {})
                for index, cosine in ranked.order
            ]
            return convert.answer(ranks, ranked.manifest, work.record)
    except GatewayError as error:
        if not teis:
            raise
        return problem(error, request)


async def _ranked(
    engine: Engine, work: Work, model: str | None, query: tuple[str, str],
    others: tuple[list[str], str], truncate: bool | None,
) -> Ranked:  # fmt: skip
    """The others by their cosine with the query; each comes with its field in the request."""
    given, param = others
    check_given(given, param)
    inference_request = requests.Rerank(
        model or None, convert.item(*query), convert.items(given, param)
    )
    ranked = await work.run(engine.rerank(inference_request, work.record))
    if ranked.truncated and truncate is False:
        raise TextError("a text is over the model's context length", code=_TOO_LONG)
    return ranked


TEI_EMBED = Endpoint(
    "/embed",
    "Embed texts and images, in TEI's shape",
    tei_embed,
    TeiEmbedRequest,
    TeiEmbedResponse,
    other_paths=("/",),
    failures=TEIS_FAILURES,
    failed=TeiErrorResponse,
)
TEI_SIMILARITY = Endpoint(
    "/similarity",
    "Compare one text or image with several, in TEI's shape",
    tei_similarity,
    TeiSimilarityRequest,
    TeiSimilarityResponse,
    failures=TEIS_FAILURES,
    failed=TeiErrorResponse,
)
EITHER_RERANK = Endpoint(
    "/rerank",
    "Order documents by their likeness to a query, in infinity's shape or TEI's",
    either_rerank,
    EitherRerankRequest,
    EitherRerankResponse,
    failures=tuple(sorted({*FAILURES, *TEIS_FAILURES})),
    failed=EitherErrorResponse,
)
