"""`/v1/batches`, in OpenAI's shape: requests for embeddings that run in the background."""

import logging
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.access.access import Access
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from gateway.operations.batches.lines import Answered
from gateway.operations.batches.objects import BatchObject
from gateway.operations.batches.runner import Answer
from gateway.operations.batches.store import Store
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.engine import Engine
from gateway.rest import convert, fields
from gateway.rest.endpoints.embeddings import EmbeddingsRequest, embed
from gateway.rest.endpoints.openai_lists import listed, page, space_of
from gateway.rest.intake import Intake
from gateway.rest.openapi import answers, json_body
from gateway.rest.problems import internal_error, rendered
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import Record, request_id

MOST_BATCHES, USUAL_BATCHES = 100, 20  # in one list, as OpenAI has it
EVERYBODY = "batches"  # the client of batches that belong to no key

logger = logging.getLogger(__name__)


class ExpiresAfter(fields.Request):
    """How long results are kept."""

    anchor: Literal["created_at"]
    seconds: fields.KeptSeconds


class BatchRequest(fields.Request):
    """OpenAI's request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "input_file_id": "file-0123456789abcdef0123456789abcdef",
                    "endpoint": "/v1/embeddings",
                    "completion_window": "24h",
                }
            ]
        }
    )

    input_file_id: str
    endpoint: Literal["/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class BatchesResponse(BaseModel):
    """Batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def answering(engine: Engine, intake: Intake, access: Access | None, metrics: Metrics) -> Answer:
    """Answer a line as `/v1/embeddings` does, in bulk, at the cost of the owner's quota."""

    async def answer(owner: str | None, body: bytes, *, last: bool) -> Answered:
        record = Record(
            protocol="batch", operation="/v1/embeddings", request_id=request_id(()),
            client=owner or EVERYBODY,
        )  # fmt: skip
        account = None
        if access is not None:
            if owner is None:
                raise Unauthenticated("the batch is of a time when nobody needed a key")
            account = access.account(owner, record)
        try:
            async with intake.offline(body, record, account) as work:
                line = await work.parse(EmbeddingsRequest)
                response = await embed(engine, work, line, bulk=True)
        except (Overloaded, QuotaExceeded, Unavailable, Unauthenticated):
            raise
        except GatewayError as error:
            if isinstance(error, DeadlineExceeded) and not last:
                raise
            response = rendered(error, record)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            response = internal_error(record.request_id)
        record.code = str(response.status_code)
        metrics.answered_line(record)
        return Answered(response.status_code, record.request_id, bytes(response.body))

    return answer


def router(store: Store | None, intake: Intake, threads: Threads) -> APIRouter:
    """The routes, which read and write in `threads`; all answer 404 without a store."""
    made = APIRouter(tags=["batches"])

    @made.post(
        "/v1/batches", summary="Run the requests of a file", openapi_extra=json_body(BatchRequest),
        responses=answers(BatchObject, 400, 401, 404, 413, 429, 503),
    )  # fmt: skip
    async def create(request: Request) -> Response:
        """Begin soon, and run behind all other requests."""
        space = space_of(store, request)
        async with intake.work(request) as work:
            body = await work.parse(BatchRequest)
            keep_s = body.output_expires_after.seconds if body.output_expires_after else None
            made = await threads.run(space.add_batch, body.input_file_id, body.metadata, keep_s)
        return convert.plain(made.model_dump())

    @made.get(
        "/v1/batches", summary="List the batches", openapi_extra=page(MOST_BATCHES),
        responses=answers(BatchesResponse, 400, 401, 404),
    )  # fmt: skip
    async def several(request: Request) -> Response:
        """The newest first."""
        space = space_of(store, request)
        query = dict(request.query_params)
        found = space.batches(query.get("after"))
        return await threads.run(listed, found, query, USUAL_BATCHES, MOST_BATCHES)

    @made.get(
        "/v1/batches/{batch_id}", summary="One batch", responses=answers(BatchObject, 401, 404)
    )
    async def one(request: Request, batch_id: str) -> Response:
        """How far it is, and the ids of its results."""
        space = space_of(store, request)
        return convert.plain((await threads.run(space.batch, batch_id)).model_dump())

    @made.post(
        "/v1/batches/{batch_id}/cancel", summary="Cancel a batch",
        responses=answers(BatchObject, 400, 401, 404, 503),
    )  # fmt: skip
    async def cancel(request: Request, batch_id: str) -> Response:
        """End it soon; what is answered by then is kept."""
        space = space_of(store, request)
        return convert.plain((await threads.run(space.cancel, batch_id)).model_dump())

    return made
