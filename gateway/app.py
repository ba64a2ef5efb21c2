"""The composition root: builds every part once, and takes them down in turn."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from gateway import build
from gateway.access.access import Access
from gateway.access.keys import Keyring, KeysError
from gateway.access.quotas import Quotas
from gateway.access.tls import Tls, TlsError, read_tls
from gateway.admission.permits import Admission
from gateway.build import Background, Core
from gateway.inference.batching import Batcher
from gateway.inference.client import InferClient
from gateway.inference.grpc_client import NO_SECRET, GrpcInferClient
from gateway.inference.secret import Secret, SecretError
from gateway.models.manifest import Manifest, ManifestError
from gateway.models.registry import Models
from gateway.operations.readiness import Readiness
from gateway.operations.signals import told
from gateway.operations.updates import Updates
from gateway.pipeline.cache import VectorCache
from gateway.pipeline.classifiers import Classifiers
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.embedding import CachedEncoder, Embedder
from gateway.pipeline.engine import Engine
from gateway.pipeline.label_sets import LabelSetError, LabelSets, check_label_sets, read_label_sets
from gateway.pipeline.prepare import Preparer
from gateway.rest import admin, openapi, problems
from gateway.rest.direct import Direct, direct
from gateway.rest.intake import Intake
from gateway.rest.middleware import RequestContext
from gateway.rest.playground.routes import Facts
from gateway.rest.playground.routes import router as playground
from gateway.rest.routes import router
from gateway.rest.security import BrowserGuard, KeyGuard
from gateway.rpc.server import RpcServer
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer

VERSION = "0.1.0"
DESCRIPTION = "OpenCLIP embeddings and zero-shot classification, served by NVIDIA Triton."
NOT_LOADED = (ManifestError, LabelSetError, KeysError, TlsError, SecretError)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is read from disk before anything is served."""

    models: Models
    sets: LabelSets
    keyring: Keyring | None = None  # None: nobody needs a key
    tls: Tls | None = None  # None: plain text
    secret: Secret = NO_SECRET  # of Triton


def load(settings: Settings) -> Loaded:
    """The models to serve with their tokenizers, the label sets, keys and the certificate.

    Raises:
        ManifestError: The repository, a manifest or a tokenizer is wrong, or a model is missing.
        LabelSetError: A file of labels or templates is wrong.
        KeysError: The file of API keys is wrong.
        TlsError: The certificate is wrong.
        SecretError: The file of Triton's secret is wrong.
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
    )


def create_app(
    settings: Settings,
    loaded: Loaded,
    connect: Callable[[Sequence[str]], InferClient] | None = None,
    agrees: Callable[[Iterable[Manifest]], None] = lambda manifests: None,
) -> FastAPI:
    """The REST application over these models; its parts, gRPC too, live as long as its lifespan.

    `connect` makes another client of Triton, inside the running event loop; `agrees` is told, in a
    thread, what is served whenever that changes.
    """
    metrics = Metrics()
    metrics.serves(model.manifest for model in loaded.models)
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
            else GrpcInferClient(addresses, metrics.tritons, loaded.secret)
        )
        core = await _build(settings, loaded, metrics, client, agrees)
        posted.update(_route(app, settings, loaded, core, metrics))
        config = build.rpc_config(settings, tls)
        rpc = RpcServer(core.engine, core.admission, core.readiness, observer, config, access)
        await rpc.start(settings.host, settings.grpc_port)
        scraped = build.metrics_server(settings, metrics)
        background = _begin(settings, loaded, core, metrics)
        draining: list[asyncio.Task[None]] = []

        def drain() -> None:
            draining.append(asyncio.create_task(rpc.stop(settings.drain_s)))

        try:
            with told(reload=core.updates.ask, drain=drain):
                yield
        finally:
            drain()
            await asyncio.gather(*draining)
            await background.end(scraped)
            await core.close(traces)

    app = _application(lifespan)
    app.state.tls = tls  # for whoever accepts connections
    problems.install(app)
    openapi.install(app, keys=access is not None)
    app.include_router(playground(_facts(settings, loaded.sets)))
    app.add_middleware(Direct, routes=posted)
    if access is not None:
        app.add_middleware(KeyGuard, access=access)
    # A page has no key, whatever its name leads to.
    hosts = None if access else build.hosts(settings, settings.host)
    app.add_middleware(BrowserGuard, hosts=hosts)
    app.add_middleware(RequestContext, observer=observer, tls=tls is not None)
    return app


def _application(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    return FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="openclip-triton",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is of both protocols
    )


async def _build(
    settings: Settings,
    loaded: Loaded,
    metrics: Metrics,
    client: InferClient,
    agrees: Callable[[Iterable[Manifest]], None],
) -> Core:
    threads, long = Threads(settings.threads()), Threads(1)
    cache = VectorCache(settings.text_cache_bytes, metrics.looked_up)
    limits = build.request_limits(settings)
    decoder = await asyncio.to_thread(build.decoder, settings)
    preparer = Preparer(threads, limits, decoder, build.fetcher(settings), long=long)
    encoder = CachedEncoder(Batcher(client, settings.triton_calls, metrics.called), cache)
    classifiers = Classifiers(loaded.models, loaded.sets, preparer, encoder, cache)

    def doubt(fingerprint: str) -> None:
        cache.clear()
        classifiers.doubt(fingerprint)

    return Core(
        client,
        (threads, long),
        decoder,
        classifiers,
        Engine(loaded.models, loaded.sets, limits, Embedder(preparer, encoder), classifiers),
        Admission(build.room(settings)),
        Readiness(
            loaded.models, client, classifiers, doubt, every=settings.ready_all, told=metrics.ready
        ),
        Updates(
            loaded.models, build.selection(settings), client, classifiers, metrics.serves, agrees
        ),
    )


def _route(
    app: FastAPI, settings: Settings, loaded: Loaded, core: Core, metrics: Metrics
) -> dict[str, APIRoute]:
    """Adds the routes of the API; those that need no routing, by their paths."""
    intake = Intake(
        core.admission,
        settings.max_body_bytes,
        settings.request_timeout_s,
        build.max_values(settings),
        settings.min_rate,
        settings.max_text_characters,
    )
    shown = None if settings.metrics_port else metrics
    routes = router(core.engine, intake, core.readiness, shown, settings.max_items)
    app.include_router(routes)
    app.include_router(admin.router(loaded.models, core.updates))
    return direct(routes.routes)


def _begin(settings: Settings, loaded: Loaded, core: Core, metrics: Metrics) -> Background:
    keyring, tls = loaded.keyring, loaded.tls
    return Background(
        asyncio.create_task(keyring.follow()) if keyring else None,
        asyncio.create_task(tls.follow(metrics.certificate)) if tls else None,
        asyncio.create_task(core.classifiers.warm()),
        asyncio.create_task(core.readiness.watch(settings.triton_verify_s)),
        asyncio.create_task(core.updates.follow(settings.reload_s)),
    )


def _facts(settings: Settings, sets: LabelSets) -> Facts:
    return Facts(
        version=VERSION,
        max_items=settings.max_items,
        max_image_bytes=settings.max_image_bytes,
        max_body_bytes=settings.max_body_bytes,
        template_sets=sets.template_sets,
        label_sets={name: len(each.labels) for name, each in sets.label_sets.items()},
    )
