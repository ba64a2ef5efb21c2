"""The composition root: builds every part once, and takes them down in turn."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from gateway.admission import Admission
from gateway.cache import VectorCache
from gateway.classifiers import Classifiers
from gateway.concurrency import Threads
from gateway.encoder import Encoder
from gateway.engine import Engine
from gateway.images import ImageLimits
from gateway.labelsets import LabelSets, read_label_sets
from gateway.lanes import Lanes
from gateway.limits import RequestLimits
from gateway.manifest import ManifestError, read_repository
from gateway.metrics import Metrics
from gateway.models import Model, Models
from gateway.observer import Observer
from gateway.prepare import Preparer
from gateway.readiness import Readiness
from gateway.rest import openapi, problems
from gateway.rest.intake import Intake
from gateway.rest.middleware import RequestContext
from gateway.rest.routes import router
from gateway.rpc.server import RpcConfig, RpcServer
from gateway.settings import Settings
from gateway.triton import GrpcInferClient, InferClient

VERSION = "0.1.0"
DESCRIPTION = "OpenCLIP embeddings and zero-shot classification, served by NVIDIA Triton."
STREAM_WINDOW_BYTES = 16 * 2**20  # so that a few streams do not take all the bytes in flight
RPC_GRACE_S = 10.0  # what calls in progress get when the gateway stops

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is read from disk before anything is served."""

    models: Models
    sets: LabelSets


def load(settings: Settings) -> Loaded:
    """The models to serve with their tokenizers, and the label sets.

    Raises:
        ManifestError: The repository, a manifest or a tokenizer is wrong, or a model is missing.
        LabelSetError: A file of labels or templates is wrong.
    """
    repository = settings.model_repository
    manifests = read_repository(repository)
    wanted = settings.models or tuple(manifests)
    default = (settings.default_model,) if settings.default_model else ()
    for model_id in (*wanted, *default, *settings.model_aliases.values()):
        if model_id not in manifests or model_id not in wanted:
            found = ", ".join(manifests)
            raise ManifestError(f"{repository}: model {model_id!r} is not here; found: {found}")
    served = {model_id: Model.load(manifests[model_id], repository) for model_id in wanted}
    return Loaded(
        Models(served, settings.model_aliases, settings.default_model),
        read_label_sets(settings.label_sets, settings.template_sets),
    )


def create_app(
    settings: Settings,
    loaded: Loaded,
    connect: Callable[[Sequence[str]], InferClient] = GrpcInferClient,
) -> FastAPI:
    """The REST application over these models; its parts, gRPC too, live as long as its lifespan.

    `connect` makes the client of Triton, inside the running event loop.
    """
    metrics = Metrics()
    metrics.serves(model.manifest for model in loaded.models)
    observer = Observer(metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = connect(settings.triton_addresses())
        threads = Threads(settings.threads())
        cache = VectorCache(settings.text_cache_bytes, metrics.looked_up)
        limits = _request_limits(settings)
        preparer = Preparer(threads, limits, _image_limits(settings))
        encoder = Encoder(Lanes(client, settings.triton_calls, metrics.called), cache)
        classifiers = Classifiers(loaded.models, loaded.sets, preparer, encoder, cache)
        engine = Engine(loaded.models, loaded.sets, limits, preparer, encoder, classifiers)
        admission = Admission(settings.max_inflight, settings.max_inflight_bytes)
        readiness = Readiness(loaded.models, client, classifiers)
        intake = Intake(admission, settings.max_body_bytes, settings.request_timeout_s)
        app.include_router(router(engine, intake, readiness, metrics, settings.max_items))
        rpc = RpcServer(engine, admission, readiness, observer, _rpc_config(settings))
        await rpc.start(settings.host, settings.grpc_port)
        warming = asyncio.create_task(classifiers.warm())
        try:
            yield
        finally:
            await rpc.stop(RPC_GRACE_S)
            warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await warming
            await client.close()
            await threads.close()

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
    app.add_middleware(RequestContext, observer=observer)
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


def _rpc_config(settings: Settings) -> RpcConfig:
    return RpcConfig(
        max_message_bytes=settings.max_body_bytes,
        timeout_s=settings.request_timeout_s,
        stream_window_items=settings.stream_window,
        stream_window_bytes=min(settings.max_body_bytes, STREAM_WINDOW_BYTES),
        stream_batch_items=min(32, settings.max_items),
        reuse_port=settings.workers > 1,
    )
