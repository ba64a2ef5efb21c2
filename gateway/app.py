"""The composition root: builds every part once, and takes them down in turn."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from gateway.access import Access
from gateway.admission import Admission, Room
from gateway.cache import VectorCache
from gateway.classifiers import Classifiers
from gateway.concurrency import Threads
from gateway.decodepool import DecodePool
from gateway.encoder import Encoder
from gateway.engine import Engine
from gateway.fetch import Fetcher, FetchRules
from gateway.images import DecodeOptions, Decoder, ImageLimits
from gateway.inference import InferClient
from gateway.keys import Keyring
from gateway.labelsets import LabelSets, check_label_sets, read_label_sets
from gateway.lanes import Lanes
from gateway.limits import RequestLimits
from gateway.metrics import Metrics
from gateway.models import Models, Selection
from gateway.observer import Observer
from gateway.prepare import Preparer
from gateway.quotas import Quotas
from gateway.readiness import Readiness
from gateway.rest import admin, openapi, problems
from gateway.rest.direct import Direct, direct
from gateway.rest.intake import Intake
from gateway.rest.middleware import RequestContext
from gateway.rest.playground.routes import Facts
from gateway.rest.playground.routes import router as playground
from gateway.rest.routes import router
from gateway.rest.security import KeyGuard
from gateway.rpc.server import RpcConfig, RpcServer
from gateway.scrape import MetricsServer
from gateway.settings import Settings
from gateway.signals import told
from gateway.tls import Certificate, read_certificate
from gateway.triton import GrpcInferClient
from gateway.updates import Updates

VERSION = "0.1.0"
DESCRIPTION = "OpenCLIP embeddings and zero-shot classification, served by NVIDIA Triton."
STREAM_WINDOW_BYTES = 16 * 2**20  # so that a few streams do not take all the bytes in flight

if TYPE_CHECKING:
    from gateway.traces import Traces

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is read from disk before anything is served."""

    models: Models
    sets: LabelSets
    keyring: Keyring | None = None  # None: nobody needs a key
    certificate: Certificate | None = None  # None: plain text


def load(settings: Settings) -> Loaded:
    """The models to serve with their tokenizers, the label sets, keys and the certificate.

    Raises:
        ManifestError: The repository, a manifest or a tokenizer is wrong, or a model is missing.
        LabelSetError: A file of labels or templates is wrong.
        KeysError: The file of API keys is wrong.
        TlsError: The certificate is wrong.
    """
    served = selection(settings).load()
    sets = read_label_sets(settings.label_sets, settings.template_sets)
    check_label_sets(sets, _request_limits(settings))
    return Loaded(
        Models(served, settings.model_aliases, settings.default_model),
        sets,
        Keyring(settings.api_keys_file) if settings.api_keys_file else None,
        read_certificate(settings.tls_cert, settings.tls_key, settings.tls_client_ca),
    )


def selection(settings: Settings) -> Selection:
    """Which models are to be served."""
    return Selection(
        settings.model_repository, settings.models, settings.default_model, settings.model_aliases
    )


def create_app(
    settings: Settings,
    loaded: Loaded,
    connect: Callable[[Sequence[str]], InferClient] | None = None,
) -> FastAPI:
    """The REST application over these models; its parts, gRPC too, live as long as its lifespan.

    `connect` makes another client of Triton, inside the running event loop.
    """
    metrics = Metrics()
    metrics.serves(model.manifest for model in loaded.models)
    traces = _traces(settings)
    observer = Observer(metrics, traces)
    keyring = loaded.keyring
    access = Access(keyring, Quotas(settings.workers)) if keyring else None
    posted: dict[str, APIRoute] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        addresses = settings.triton_addresses()
        client = connect(addresses) if connect else GrpcInferClient(addresses, metrics.tritons)
        threads = Threads(settings.threads())
        cache = VectorCache(settings.text_cache_bytes, metrics.looked_up)
        limits = _request_limits(settings)
        decoder = await asyncio.to_thread(_decoder, settings)
        preparer = Preparer(threads, limits, decoder, _fetcher(settings))
        encoder = Encoder(Lanes(client, settings.triton_calls, metrics.called), cache)
        classifiers = Classifiers(loaded.models, loaded.sets, preparer, encoder, cache)
        engine = Engine(loaded.models, loaded.sets, limits, preparer, encoder, classifiers)
        admission = Admission(_room(settings))
        readiness = Readiness(loaded.models, client, classifiers, cache.clear)
        intake = Intake(
            admission, settings.max_body_bytes, settings.request_timeout_s, _max_values(settings)
        )
        shown = None if settings.metrics_port else metrics
        routes = router(engine, intake, readiness, shown, settings.max_items)
        app.include_router(routes)
        posted.update(direct(routes.routes))
        updates = Updates(loaded.models, selection(settings), client, classifiers, metrics.serves)
        app.include_router(admin.router(loaded.models, updates))
        rpc_config = _rpc_config(settings, loaded.certificate)
        rpc = RpcServer(engine, admission, readiness, observer, rpc_config, access)
        await rpc.start(settings.host, settings.grpc_port)
        scraped = _metrics_server(settings, metrics)
        following = asyncio.create_task(keyring.follow()) if keyring else None
        warming = asyncio.create_task(classifiers.warm())
        verifying = asyncio.create_task(readiness.watch(settings.triton_verify_s))
        updating = asyncio.create_task(updates.follow(settings.reload_s))
        draining: list[asyncio.Task[None]] = []

        def drain() -> None:
            draining.append(asyncio.create_task(rpc.stop(settings.drain_s)))

        try:
            with told(reload=updates.ask, drain=drain):
                yield
        finally:
            drain()
            await asyncio.gather(*draining)
            updating.cancel()
            if following:
                following.cancel()
            if scraped:
                await asyncio.to_thread(scraped.close)
            warming.cancel()
            verifying.cancel()
            await asyncio.gather(updating, warming, verifying, return_exceptions=True)
            await client.close()
            await threads.close()
            if traces:
                await asyncio.to_thread(traces.close)
            if isinstance(decoder, DecodePool):
                await asyncio.to_thread(decoder.close)

    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="openclip-triton",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is of both protocols
    )
    problems.install(app)
    openapi.install(app, keys=access is not None)
    app.include_router(playground(_facts(settings, loaded.sets)))
    app.add_middleware(Direct, routes=posted)
    if access is not None:
        app.add_middleware(KeyGuard, access=access)
    app.add_middleware(RequestContext, observer=observer, tls=loaded.certificate is not None)
    return app


def _decoder(settings: Settings) -> Decoder | DecodePool:
    limits = ImageLimits(
        settings.max_image_bytes,
        settings.max_image_pixels,
        settings.max_resized_pixels,
        settings.max_decode_bytes,
    )
    options = DecodeOptions(settings.exif_orientation, settings.jpeg_draft)
    if not settings.decode_processes:
        return Decoder(limits, options)
    return DecodePool(settings.decode_processes, limits, options, settings.decode_timeout_s)


def _room(settings: Settings) -> Room:
    return Room(settings.max_inflight, settings.max_inflight_items, settings.max_inflight_bytes)


def _max_values(settings: Settings) -> int:
    """JSON values that a request within the limits may hold; an item is up to six of them."""
    return 6 * settings.max_items + settings.max_labels + settings.max_prompts + 1_000


def _request_limits(settings: Settings) -> RequestLimits:
    return RequestLimits(
        settings.max_items,
        settings.max_labels,
        settings.max_prompts,
        settings.max_text_characters,
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


def _fetcher(settings: Settings) -> Fetcher | None:
    if not settings.fetch_urls:
        return None
    return Fetcher(
        FetchRules(
            hosts=settings.fetch_hosts,
            ports=frozenset(settings.fetch_ports or (80, 443)),
            private=settings.fetch_private,
            max_bytes=settings.max_image_bytes,
            timeout_s=settings.fetch_timeout_s,
            max_redirects=settings.fetch_max_redirects,
            concurrency=settings.fetch_concurrency,
        )
    )


def _traces(settings: Settings) -> "Traces | None":
    if settings.otlp_endpoint is None:
        return None
    from gateway.traces import Traces  # needs OpenTelemetry, which is an extra

    return Traces(settings.otlp_endpoint)


def _metrics_server(settings: Settings, metrics: Metrics) -> MetricsServer | None:
    if settings.metrics_port is None:
        return None
    host = settings.metrics_host or settings.host
    return MetricsServer(host, settings.metrics_port, metrics.rendered)


def _rpc_config(settings: Settings, certificate: Certificate | None) -> RpcConfig:
    return RpcConfig(
        max_message_bytes=settings.max_body_bytes,
        timeout_s=settings.request_timeout_s,
        stream_window_items=settings.stream_window,
        stream_idle_s=settings.stream_idle_s,
        stream_window_bytes=min(settings.max_body_bytes, STREAM_WINDOW_BYTES),
        stream_batch_items=min(32, settings.max_items),
        reuse_port=settings.workers > 1,
        tls=certificate,
    )
