"""`POST /v1/rerank`: documents ordered by their cosine with a query."""

from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gateway.models.values import Item, TextItem
from gateway.pipeline import requests
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.convert import Usage
from gateway.rest.endpoint import Endpoint
from gateway.rest.fields import RED_CIRCLE, InputItem, ModelName, RawScores
from gateway.rest.intake import Intake

_EXAMPLES: list[JsonValue] = [
    {
        "model": "demo",
        "query": "a photo of a red circle.",
        "documents": ["a blue star", {"image": RED_CIRCLE}],
        "top_n": 1,
    }
]


class RerankRequest(fields.Request):
    """Documents to order by their likeness to a query; each may be text or image."""

    model_config = ConfigDict(json_schema_extra={"examples": _EXAMPLES})

    model: ModelName = None
    query: InputItem
    documents: Annotated[list[InputItem], Field(min_length=1, fail_fast=True)]
    top_n: int | None = Field(None, ge=1, description="Number of documents to return, best first.")
    return_documents: bool | None = Field(
        False, description="Send the documents back with their scores."
    )
    raw_scores: RawScores = Field(False, description="infinity's; a score is the cosine.")


class DocumentObject(BaseModel):
    """A document, as it was sent."""

    text: str | None = None
    image: str | None = None


class RankedObject(BaseModel):
    """One document with its relevance."""

    index: int = Field(description="Of the document in the request.")
    relevance_score: float = Field(description="The cosine with the query, -1 to 1.")
    document: DocumentObject | None = Field(None, description="With `return_documents` only.")


class RerankResponse(BaseModel):
    """Jina's and Cohere's answer."""

    id: str = Field(description="Made of the request's id.")
    object: Literal["rerank"] = "rerank"
    model: str
    results: list[RankedObject] = Field(description="Best first.")
    truncated: bool | None = Field(
        None, description="`true` if the query or a document was cut; else left out."
    )
    usage: Usage


async def rerank(engine: Engine, intake: Intake, request: Request) -> Response:
    """Documents by their cosine with the query, best first."""
    async with intake.work(request) as work:
        body = await work.parse(RerankRequest)
        documents = convert.items(body.documents, "documents")
        inference_request = requests.Rerank(
            body.model or None, convert.item(body.query, "query"), documents, body.top_n
        )
        ranked = await work.run(engine.rerank(inference_request, work.record))
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": cosine} for index, cosine in ranked.order
        ]
        if body.return_documents:
            for result in results:
                result["document"] = _document(documents[result["index"]])
        content: dict[str, Any] = {
            "id": f"rerank-{work.request_id}",
            "object": "rerank",
            "model": body.model or ranked.manifest.id,
            "results": results,
            "usage": convert.usage(ranked.tokens, ranked.images),
        }
        if ranked.truncated:
            content["truncated"] = True
        return convert.answer(content, ranked.manifest, work.record)


def _document(item: Item) -> dict[str, Any]:
    """A document as it was sent."""
    return {"text": item.text} if isinstance(item, TextItem) else {"image": item.data}


RERANK = Endpoint(
    "/v1/rerank",
    "Order documents by their likeness to a query",
    rerank,
    RerankRequest,
    RerankResponse,
)
