"""The composition root: builds every part once, and takes them down in turn."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from gateway.admission import Admission
from gateway.engine import Engine, Model
from gateway.images import ImageLimits
from gateway.manifest import ManifestError, read_repository
from gateway.readiness import Readiness
from gateway.rest import openapi, problems
from gateway.rest.inputs import RequestLimits
from gateway.rest.intake import Intake
from gateway.rest.middleware import RequestContext
from gateway.rest.routes import Routes
from gateway.settings import Settings
from gateway.triton import GrpcInferClient, InferClient

VERSION = "0.1.0"
DESCRIPTION = "OpenCLIP embeddings and zero-shot classification, served by NVIDIA Triton."

logger = logging.getLogger(__name__)


def load_models(settings: Settings) -> dict[str, Model]:
    """The models to serve, by id, with their tokenizers.

    Raises:
        ManifestError: The repository, a manifest or a tokenizer is wrong, or a model is missing.
    """
    manifests = read_repository(settings.model_repository)
    wanted = settings.models or tuple(manifests)
    default = (settings.default_model,) if settings.default_model else ()
    for model_id in (*wanted, *default):
        if model_id not in manifests or model_id not in wanted:
            found = ", ".join(manifests)
            raise ManifestError(
                f"{settings.model_repository}: model {model_id!r} is not here; found: {found}"
            )
    return {
        model_id: Model.load(manifests[model_id], settings.model_repository) for model_id in wanted
    }


def create_app(
    settings: Settings,
    models: dict[str, Model],
    connect: Callable[[str], InferClient] = GrpcInferClient,
) -> FastAPI:
    """The REST application over these models; its parts live as long as its lifespan.

    `connect` makes the client of Triton, inside the running event loop.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = connect(settings.triton_address)
        threads = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="prepare")
        engine = Engine(models, client, threads, _image_limits(settings))
        only = next(iter(models)) if len(models) == 1 else None
        routes = Routes(
            engine,
            Intake(
                Admission(settings.max_inflight, settings.max_inflight_bytes),
                settings.max_body_bytes,
                settings.request_timeout_s,
            ),
            Readiness(models, client),
            _request_limits(settings),
            settings.default_model or only,
        )
        app.include_router(routes.router())
        try:
            yield
        finally:
            await client.close()
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)

    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="openclip-triton",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    problems.install(app)
    openapi.install(app)
    app.add_middleware(RequestContext)
    return app


def _image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        settings.max_image_bytes, settings.max_image_pixels, settings.max_resized_pixels
    )


def _request_limits(settings: Settings) -> RequestLimits:
    return RequestLimits(
        settings.max_items,
        settings.max_labels,
        settings.max_prompts,
        settings.max_text_characters,
    )
