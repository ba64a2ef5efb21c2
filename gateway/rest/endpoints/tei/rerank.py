"""`/rerank`, which is infinity's as well: documents ordered by their cosine with a query."""

import re
from typing import Annotated

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, RootModel, Tag

from gateway.errors import GatewayError, RequestError
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.endpoint import Endpoint
from gateway.rest.endpoints.rerank import InfinityRerankResponse, RerankRequest, jinas
from gateway.rest.endpoints.tei import problems
from gateway.rest.endpoints.tei.fields import Direction, Model, Truncate
from gateway.rest.endpoints.tei.similarity import ranked_by_cosine
from gateway.rest.intake import Intake, Work
from gateway.rest.problems import ErrorResponse

_RERANK: JsonValue = {
    "query": "a red circle", "texts": ["a blue star", "a photo of a red circle."]
}  # fmt: skip


class TeiRerankRequest(fields.Request):
    """TEI's request; texts may be images, as data URLs."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RERANK]})

    query: fields.NotEmpty
    texts: fields.TextList
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


_HAS_TEXTS = re.compile(rb'"texts"\s*:')


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


class EitherErrorResponse(RootModel[ErrorResponse | problems.TeiErrorResponse]):
    """The service's own error, or to TEI's requests TEI's."""


class EitherEndpoint(Endpoint):
    """A route that answers the errors of TEI's requests as TEI does."""

    async def handle(self, engine: Engine, intake: Intake, request: Request) -> Response:
        """See `Endpoint.handle`."""
        teis = False
        try:
            async with intake.work(request) as work:
                sent = work.body
                try:
                    body = await work.parse(EitherRerankRequest)
                except RequestError:
                    teis = _HAS_TEXTS.search(sent) is not None
                    raise
                finally:
                    del sent
                teis = isinstance(body.root, TeiRerankRequest)
                return await self.answer(engine, work, body.root)
        except GatewayError as error:
            if not teis:
                raise
            return problems.problem(error, request)


@EitherEndpoint.at(
    "/rerank",
    "Order documents by their likeness to a query, in infinity's shape or TEI's",
    EitherRerankRequest,
    EitherRerankResponse,
    failures=problems.FAILURES,
    failed=EitherErrorResponse,
)
async def either_rerank(
    engine: Engine, work: Work, body: RerankRequest | TeiRerankRequest
) -> Response:
    """`documents` are infinity's: as `/v1/rerank`, but a document comes back as a plain string.

    `texts` are TEI's: a list of ranks.
    """
    if isinstance(body, RerankRequest):
        return await jinas(engine, work, body, plain=True)
    ranked = await ranked_by_cosine(
        engine, work, body.model, (body.query, "query"), (body.texts, "texts"), body.truncate
    )
    ranks = [
        {"index": index, "score": cosine}
        | ({"text": body.texts[index]} if body.return_text else {})
        for index, cosine in ranked.order
    ]
    return convert.answer(ranks, ranked.manifest, work.record)
