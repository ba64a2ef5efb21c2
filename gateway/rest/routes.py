"""The routes of the REST API, and the handlers of those that run no model."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response

from gateway.models.registry import Models
from gateway.operations.readiness import Readiness
from gateway.pipeline.engine import Engine
from gateway.rest import convert, responses, schemas
from gateway.rest.handlers import InferenceRoutes, UploadRoutes
from gateway.rest.intake import Intake
from gateway.rest.openapi import answers, body, image_body
from gateway.rest.problems import problem
from gateway.rest.security import LIVE, READY
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics


class CatalogueRoutes:
    """Models and probes."""

    def __init__(self, models: Models, readiness: Readiness) -> None:
        self._models = models
        self._readiness = readiness

    async def models(self) -> Response:
        """In OpenAI's shape, with what a client must know to use the vectors."""
        served = [convert.model_object(self._models, model.manifest) for model in self._models]
        return convert.plain({"object": "list", "data": served})

    async def model(self, model_id: str) -> Response:
        """One model, by its id or alias."""
        manifest = self._models.find(model_id).manifest
        return convert.plain(convert.model_object(self._models, manifest))

    async def livez(self) -> Response:
        """Always 200 while the process runs."""
        return convert.plain({"status": "live"})

    async def readyz(self) -> Response:
        """200 when right answers can be given; else 503, naming what stands in the way."""
        states = await self._readiness.states()
        models = {
            model_id: {
                "ready": state.ready, "default": state.default, "problems": list(state.problems)
            }
            for model_id, state in states.items()
        }  # fmt: skip
        problems = self._readiness.verdict(states)
        if not problems:
            return convert.plain({"status": "ready", "models": models})
        message = "not ready: " + "; ".join(problems)
        return problem(503, message, "not_ready", retry=True, more={"models": models})


class MetricsRoute:
    """What is counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def metrics(self) -> Response:
        """In Prometheus's text format."""
        rendered = await asyncio.to_thread(self._metrics.rendered)
        return Response(rendered, media_type=CONTENT_TYPE)


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
