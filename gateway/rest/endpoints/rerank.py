"""Documents ordered by their cosine with a query, in Jina's, Cohere's and infinity's shapes.

`gateway.rest.endpoints.tei.rerank` has infinity's route, which is TEI's as well.
"""

from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.errors import MalformedRequest
from gateway.models.values import Ranked, TextItem
from gateway.pipeline import requests
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.convert import Usage
from gateway.rest.endpoint import Endpoint
from gateway.rest.fields import RED_CIRCLE, Count, InputItem, ModelName, OneOrMore, RawScores
from gateway.rest.intake import Work

_EXAMPLES: list[JsonValue] = [
    {
        "model": "demo",
        "query": "a photo of a red circle.",
        "documents": ["a blue star", {"image": RED_CIRCLE}],
        "top_n": 1,
    }
]


class _Documents(fields.Request):
    """Documents to order by their likeness to a query; each may be text or image."""

    model: ModelName = None
    query: InputItem
    documents: OneOrMore[InputItem]
    top_n: Count | None = Field(None, description="Number of documents to return, best first.")
    return_documents: bool | None = Field(
        False, description="Send the documents back with their scores."
    )


class RerankRequest(_Documents):
    """Documents to order by their likeness to a query; each may be text or image."""

    model_config = ConfigDict(json_schema_extra={"examples": _EXAMPLES})

    raw_scores: RawScores = Field(False, description="infinity's; a score is the cosine.")


class CohereRerankRequest(_Documents):
    """Cohere's request; a document may be an image as well."""

    model_config = ConfigDict(json_schema_extra={"examples": _EXAMPLES})

    max_tokens_per_doc: Count | None = Field(
        None,
        description="May not be less than the model's context length, which documents are cut at.",
    )


class DocumentObject(BaseModel):
    """A document, as it was sent."""

    text: str | None = None
    image: str | None = None


class RankedObject(BaseModel):
    """One document with its relevance."""

    index: int = Field(description="Of the document in the request.")
    relevance_score: float = Field(description="The cosine with the query, -1 to 1.")
    document: DocumentObject | None = Field(None, description="With `return_documents` only.")


class InfinityRankedObject(BaseModel):
    """One document with its relevance."""

    index: int = Field(description="Of the document in the request.")
    relevance_score: float = Field(description="The cosine with the query, -1 to 1.")
    document: str | None = Field(None, description="With `return_documents` only.")


class RerankResponse(BaseModel):
    """Jina's answer."""

    id: str = Field(description="Made of the request's id.")
    object: Literal["rerank"] = "rerank"
    model: str
    results: list[RankedObject] = Field(description="Best first.")
    truncated: bool | None = Field(
        None, description="`true` if the query or a document was cut; else left out."
    )
    usage: Usage


class InfinityRerankResponse(RerankResponse):
    """infinity's answer: that of `/v1/rerank`, with documents as plain strings."""

    results: list[InfinityRankedObject] = Field(  # type: ignore[assignment]
        description="Best first."
    )


class ApiVersion(BaseModel):
    """The version of Cohere's API."""

    version: Literal["2"] = "2"


class Tokens(BaseModel):
    """What was read. Padding is not counted."""

    input_tokens: int


class Meta(BaseModel):
    """About the answer. There are no `billed_units`, as nothing is billed."""

    api_version: ApiVersion
    tokens: Tokens
    warnings: list[str] | None = Field(None, description="That text was cut; else left out.")


class CohereRerankResponse(BaseModel):
    """Cohere's answer."""

    id: str = Field(description="Made of the request's id.")
    results: list[RankedObject] = Field(description="Best first.")
    meta: Meta


@Endpoint.at(
    "/v1/rerank", "Order documents by their likeness to a query", RerankRequest, RerankResponse
)
async def rerank(engine: Engine, work: Work, body: RerankRequest) -> Response:
    """Documents by their cosine with the query, best first."""
    return await jinas(engine, work, body)


async def jinas(
    engine: Engine, work: Work, body: RerankRequest, *, plain: bool = False
) -> Response:
    """The answer of `/v1/rerank`; `plain`: documents come back as strings, as infinity's do."""
    results, ranked = await _ranked(engine, work, body, plain=plain)
    content: dict[str, Any] = {
        "id": f"rerank-{work.record.request_id}",
        "object": "rerank",
        "model": ranked.manifest.id,
        "results": results,
        "usage": convert.usage(ranked.tokens, ranked.images),
    }
    if ranked.truncated:
        content["truncated"] = True
    return convert.answer(content, ranked.manifest, work.record)


@Endpoint.at(
    "/v2/rerank",
    "Order documents by their likeness to a query, in Cohere's shape",
    CohereRerankRequest,
    CohereRerankResponse,
)
async def cohere_rerank(engine: Engine, work: Work, body: CohereRerankRequest) -> Response:
    """Documents by their cosine with the query, best first, in Cohere's shape."""
    check_cut("max_tokens_per_doc", body.max_tokens_per_doc, body.model, engine)
    results, ranked = await _ranked(engine, work, body)
    content = {
        "id": f"rerank-{work.record.request_id}",
        "results": results,
        "meta": coheres_meta(ranked.tokens, "the query or a document", cut=ranked.truncated),
    }
    return convert.answer(content, ranked.manifest, work.record)


async def _ranked(
    engine: Engine, work: Work, body: _Documents, *, plain: bool = False
) -> tuple[list[dict[str, Any]], Ranked]:
    """The results as Jina and Cohere have them, or with `plain` as infinity has them."""
    documents = convert.items(body.documents, "documents")
    inference_request = requests.Rerank(
        body.model, convert.item(body.query, "query"), documents, body.top_n
    )
    ranked = await work.run(engine.rerank(inference_request, work.record))
    results = []
    for index, cosine in ranked.order:
        result: dict[str, Any] = {"index": index, "relevance_score": cosine}
        if body.return_documents:
            document = documents[index]
            kind, sent = (
                ("text", document.text)
                if isinstance(document, TextItem)
                else ("image", document.data)
            )
            result["document"] = sent if plain else {kind: sent}
        results.append(result)
    return results, ranked


def check_cut(field: str, tokens: int | None, model: str | None, engine: Engine) -> None:
    """Refuse, by the field's name, to cut text at fewer tokens than the model's context length."""
    if tokens is None:
        return
    length = engine.models.find(model).manifest.tokenizer.context_length
    if tokens < length:
        raise MalformedRequest(
            f"{field}: {tokens} is less than the model's context length, {length}, which text is "
            "cut at",
            param=field,
        )


def coheres_meta(tokens: int, what: str, *, cut: bool) -> dict[str, Any]:
    """See `Meta`; `what` may have been cut."""
    meta: dict[str, Any] = {"api_version": {"version": "2"}, "tokens": {"input_tokens": tokens}}
    if cut:
        meta["warnings"] = [f"{what} was cut at the model's context length"]
    return meta
