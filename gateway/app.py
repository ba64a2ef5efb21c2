"""The composition root: build the application, start it and shut it down in order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from gateway import build
from gateway.access.access import Access
from gateway.access.keys import Keyring, KeysError
from gateway.access.quotas import Quotas
from gateway.access.tls import Tls, TlsError, read_tls
from gateway.build import BackgroundTasks, Components
from gateway.inference.client import InferClient
from gateway.inference.control import ModelControl
from gateway.inference.grpc_client import GrpcInferClient
from gateway.inference.secret import Secret, SecretError
from gateway.models.manifest import ManifestError
from gateway.models.registry import Models
from gateway.operations.batches.runner import Answer, Runner
from gateway.operations.batches.store import Store, StoreError
from gateway.operations.signals import hang_up_handled
from gateway.pipeline.concurrency import first
from gateway.pipeline.label_sets import LabelSetError, LabelSets, check_label_sets, read_label_sets
from gateway.rest import endpoint, openapi, problems
from gateway.rest.endpoints import (
    admin,
    models,
    openai_batches,
    openai_files,
    probes,
)
from gateway.rest.endpoints.cohere_embed import cohere_embed
from gateway.rest.endpoints.embeddings import embeddings
from gateway.rest.endpoints.rerank import cohere_rerank, rerank
from gateway.rest.endpoints.similarity import similarity
from gateway.rest.endpoints.tei import info
from gateway.rest.endpoints.tei.embed import tei_embed
from gateway.rest.endpoints.tei.rerank import either_rerank
from gateway.rest.endpoints.tei.similarity import tei_similarity
from gateway.rest.endpoints.tei.tokens import tei_decode, tei_tokenize
from gateway.rest.endpoints.uploads import embed_images
from gateway.rest.endpoints.zero_shot import zero_shot
from gateway.rest.intake import Intake
from gateway.rest.middleware import RequestContext, posted_routes
from gateway.rest.playground.routes import router as playground
from gateway.rest.security import BrowserGuard, Cors
from gateway.rpc.server import RpcServer
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import Observer

VERSION = "0.2.0"
DESCRIPTION = "OpenCLIP embeddings and zero-shot classification, served by NVIDIA Triton."
ENDPOINTS = (
    embeddings, embed_images, zero_shot, similarity, rerank, cohere_embed, cohere_rerank,
    either_rerank, tei_embed, tei_similarity, tei_tokenize, tei_decode,
)  # fmt: skip
NOT_LOADED = (ManifestError, LabelSetError, KeysError, TlsError, SecretError, StoreError)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Read from disk before anything is served."""

    models: Models
    sets: LabelSets
    keyring: Keyring | None  # None: nobody needs a key
    tls: Tls | None  # None: plain text
    secret: Secret  # of Triton
    batches: Store | None  # None: they are off


def load(settings: Settings) -> Loaded:
    """Read the models with their tokenizers, the label sets, the keys and the certificate.

    Raises one of `NOT_LOADED`, where any of them is wrong, or a model is missing.
    """
    served = build.selection(settings).load()
    sets = read_label_sets(settings.label_sets, settings.template_sets)
    check_label_sets(sets, build.request_limits(settings))
    return Loaded(
        Models(served, settings.model_aliases, settings.default_model),
        sets,
        Keyring(settings.api_keys_file) if settings.api_keys_file else None,
        read_tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca),
        Secret(settings.triton_secret_file),
        build.batches(settings),
    )


def create_app(
    settings: Settings,
    loaded: Loaded,
    connect: Callable[[Sequence[str]], InferClient] | None = None,
    *,
    waits_until_ready: bool = False,
) -> FastAPI:
    """The REST application; its lifespan runs the gRPC server and the background tasks too.

    Args:
        settings: What is configured.
        loaded: What was read from disk.
        connect: Makes another client of Triton, inside the running event loop.
        waits_until_ready: Whether it takes connections only once `/readyz` would answer 200.
    """
    metrics = Metrics()
    if loaded.tls:
        metrics.certificate(loaded.tls.certificate.expires)
    traces = build.traces(settings)
    observer = Observer(metrics, traces)
    keyring, tls = loaded.keyring, loaded.tls
    access = Access(keyring, Quotas(settings.workers)) if keyring else None
    posted: dict[str, APIRoute] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        addresses = settings.triton_addresses()
        client = (
            connect(addresses)
            if connect
            else GrpcInferClient(
                addresses,
                ModelControl(settings.model_repository, loaded.secret),
                metrics.tritons,
                settings.model_wake if settings.model_idle_s else None,
            )
        )
        components = await build.components(settings, loaded.models, loaded.sets, metrics, client)
        readiness = components.readiness
        intake = _intake(settings, components)
        posted.update(_add_routes(app, settings, loaded, components, intake, metrics))
        config = build.rpc_config(settings, tls)
        rpc = RpcServer(
            components.engine, components.admission, readiness, observer, config, access
        )
        answer = openai_batches.answering(components.engine, intake, access, metrics)
        background = _start_background_tasks(settings, loaded, components, answer, metrics)
        stop: asyncio.Event = app.state.stop or asyncio.Event()
        with hang_up_handled(components.updates.ask):
            if waits_until_ready:
                await first(readiness.reached(), stop.wait())
            metrics.serves(model.manifest for model in loaded.models)
            if not stop.is_set():
                await rpc.start(settings.host, settings.grpc_port)
            draining = asyncio.create_task(_drain(rpc, stop, settings.drain_s))
            async with build.metrics_port(settings, metrics):
                try:
                    yield
                finally:
                    stop.set()
                    await draining
                    await background.end()
                    await components.close(traces)

    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="openclip-triton",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is of both protocols
    )
    app.state.tls = tls  # for whoever accepts connections, who may set the next as well
    # For whoever serves: an event that is set when a stop begins. uvicorn ends the lifespan only
    # when its own connections have drained: too late for gRPC to begin to drain.
    app.state.stop = None
    problems.install(app)
    openapi.install(
        app,
        [*(each.request for each in ENDPOINTS if not each.body), openai_batches.BatchRequest],
        keys=access is not None,
    )
    app.include_router(playground(_playground_facts(settings, loaded.sets)))
    # A page has no key, whatever its name leads to.
    cors = Cors(settings.cors_origins)
    guard = BrowserGuard(None if access else build.hosts(settings, settings.host), cors, posted)
    app.add_middleware(
        RequestContext, observer=observer, guard=guard, access=access, posted=posted,
        cors=cors, tls=tls is not None,
    )  # fmt: skip
    return app


async def _drain(rpc: RpcServer, stop: asyncio.Event, grace_s: float) -> None:
    await stop.wait()
    await rpc.stop(grace_s)


def _intake(settings: Settings, components: Components) -> Intake:
    return Intake(
        components.admission,
        settings.max_body_bytes,
        settings.request_timeout_s,
        build.max_values(settings),
        settings.min_rate,
        settings.max_text_characters,
    )


def _add_routes(
    app: FastAPI, settings: Settings, loaded: Loaded, components: Components, intake: Intake,
    metrics: Metrics,
) -> dict[str, APIRoute]:  # fmt: skip
    """Add the routes of the API; return those that need no routing, by their paths."""
    shown = None if settings.metrics_port else metrics
    inference = endpoint.router(ENDPOINTS, components.engine, intake)
    app.include_router(inference)
    for each in (openai_files, openai_batches):
        app.include_router(each.router(loaded.batches, intake, components.files))
    app.include_router(models.router(loaded.models, components.client.asleep))
    app.include_router(info.router(loaded.models, _teis_limits(settings)))
    app.include_router(probes.router(components.readiness, shown))
    app.include_router(admin.router(loaded.models, components.updates))
    return posted_routes(inference.routes)


def _start_background_tasks(
    settings: Settings, loaded: Loaded, components: Components, answer: Answer, metrics: Metrics
) -> BackgroundTasks:
    work = [
        components.classifiers.warm(),
        components.readiness.watch(settings.triton_verify_s),
        components.updates.follow(settings.reload_s),
    ]
    if settings.triton_unload_s:
        work.append(components.updates.release_unused(settings.triton_unload_s))
    if settings.model_idle_s:
        work.append(components.updates.rest_idle(settings.model_idle_s))
    if loaded.batches:
        runner = Runner(loaded.batches, answer, components.admission.quiet_s)
        work.append(runner.run())
    if loaded.keyring:
        work.append(loaded.keyring.follow())
    if loaded.tls:
        work.append(loaded.tls.follow(metrics.certificate))
    return BackgroundTasks(work)


def _playground_facts(settings: Settings, sets: LabelSets) -> dict[str, object]:
    return {
        "version": VERSION,
        "max_items": settings.max_items,
        "max_image_bytes": settings.max_image_bytes,
        "max_body_bytes": settings.max_body_bytes,
        "template_sets": sets.template_sets,
        "label_sets": {name: len(each.labels) for name, each in sets.label_sets.items()},
    }


def _teis_limits(settings: Settings) -> dict[str, object]:
    return {
        "version": VERSION,
        "max_concurrent_requests": settings.max_inflight,
        "max_client_batch_size": settings.max_items,
        "tokenization_workers": settings.threads(),
    }
