"""Which path leads where, and what the OpenAPI document says of it."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response

from gateway.operations.readiness import Readiness
from gateway.pipeline.engine import Engine
from gateway.rest import responses, schemas
from gateway.rest.catalogue import CatalogueRoutes, MetricsRoute
from gateway.rest.inference import InferenceRoutes
from gateway.rest.intake import Intake
from gateway.rest.openapi import answers, body, image_body
from gateway.rest.uploads import UploadRoutes
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import LIVE, READY

Handler = Callable[..., Awaitable[Response]]

_FAILURES = (400, 401, 404, 413, 429, 500, 503, 504)


def router(
    engine: Engine, intake: Intake, readiness: Readiness, metrics: Metrics | None, max_items: int
) -> APIRouter:
    """The whole REST API over one engine; `/metrics` only where `metrics` is given."""
    made = APIRouter()
    inference = InferenceRoutes(engine, intake)
    uploads = UploadRoutes(engine, intake, max_items)
    for path, handler, asked, answered, summary in (
        (
            "/v1/embeddings",
            inference.embeddings,
            schemas.EmbeddingsRequest,
            responses.EmbeddingsResponse,
            "Embed texts and images",
        ),
        (
            "/v1/zero-shot",
            inference.zero_shot,
            schemas.ZeroShotRequest,
            responses.ZeroShotResponse,
            "Classify images by labels",
        ),
        (
            "/v1/similarity",
            inference.similarity,
            schemas.SimilarityRequest,
            responses.SimilarityResponse,
            "Compare images with texts",
        ),
        (
            "/v1/rerank",
            inference.rerank,
            schemas.RerankRequest,
            responses.RerankResponse,
            "Order documents by their likeness to a query",
        ),
    ):
        made.add_api_route(
            path,
            handler,
            methods=["POST"],
            summary=summary,
            tags=["inference"],
            openapi_extra=body(asked),
            responses=answers(answered, *_FAILURES, vectors=True),
        )
    made.add_api_route(
        "/v1/embeddings/image",
        uploads.embeddings,
        methods=["POST"],
        summary="Embed images without base64",
        tags=["inference"],
        openapi_extra=image_body(),
        responses=answers(responses.EmbeddingsResponse, *_FAILURES, vectors=True, packed=True),
    )
    _add_catalogue(made, CatalogueRoutes(engine.models, readiness))
    if metrics is not None:
        made.add_api_route(
            "/metrics",
            MetricsRoute(metrics).metrics,
            methods=["GET", "HEAD"],
            include_in_schema=False,
        )
    return made


def _add_catalogue(made: APIRouter, catalogue: CatalogueRoutes) -> None:
    def get(
        path: str,
        handler: Handler,
        summary: str,
        answered: type,
        *failures: int,
        tag: str,
        failed: type = responses.ErrorResponse,
    ) -> None:
        made.add_api_route(
            path,
            handler,
            methods=["GET"],
            summary=summary,
            tags=[tag],
            responses=answers(answered, *failures, failed=failed),
        )
        made.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)

    get("/v1/models", catalogue.models, "List the served models", responses.ModelsResponse, 401,
        tag="models")  # fmt: skip
    get("/v1/models/{model_id:path}", catalogue.model, "One model", responses.ModelObject, 401, 404,
        tag="models")  # fmt: skip
    for path in LIVE:
        get(path, catalogue.livez, "Whether the process runs", responses.LiveResponse,
            tag="probes")  # fmt: skip
    for path in READY:
        get(path, catalogue.readyz, "Whether right answers can be given",
            responses.ReadyResponse, 503, tag="probes",
            failed=responses.NotReadyResponse)  # fmt: skip
