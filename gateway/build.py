"""Build the gateway's components from its settings, and close them in order."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from gateway.access.hosts import Hosts, is_loopback
from gateway.access.tls import Tls
from gateway.admission.limits import RequestLimits
from gateway.admission.permits import Admission, Room
from gateway.images.pool import DecodePool
from gateway.images.preprocess import DecodeOptions, Decoder, ImageLimits
from gateway.inference.batching import Batcher
from gateway.inference.client import InferClient
from gateway.models.manifest import ManifestError, read_repository
from gateway.models.registry import Models, Selection
from gateway.models.variants import FULL, fastest, find_variants, name_of, processor
from gateway.operations.batches.space import StoreLimits
from gateway.operations.batches.store import Store
from gateway.operations.readiness import Readiness
from gateway.operations.updates import Updates
from gateway.pipeline.cache import VectorCache
from gateway.pipeline.classifiers import Classifiers
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.embedding import Embedder, Encoders
from gateway.pipeline.engine import Engine
from gateway.pipeline.label_sets import LabelSets
from gateway.pipeline.prepare import Preparer
from gateway.rest.metrics_port import metrics_port as own_port
from gateway.rest.security import BrowserGuard
from gateway.rpc.config import RpcConfig
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from gateway.images.fetch import Fetcher
    from gateway.telemetry.traces import Traces

logger = logging.getLogger(__name__)

STREAM_WINDOW_BYTES = 16 * 2**20  # a few streams must not take all the bytes in flight


def selection(settings: Settings) -> Selection:
    """The models to serve, by the settings."""
    return Selection(
        settings.model_repository, settings.models, settings.default_model, settings.model_aliases
    )


def with_fastest(settings: Settings) -> tuple[Settings, str]:
    """Resolve `fastest_of` to an alias and a default model; also return why, in words.

    What the settings name themselves stays.

    Raises:
        ManifestError: The model is not published, or the repository cannot be read.
    """
    wanted = settings.fastest_of
    if wanted is None or not wanted.model:
        return settings, ""
    published = read_repository(settings.model_repository)
    served = [each for each in published.values() if each.id in (settings.models or published)]
    precisions = (wanted.precision or FULL).split(",")
    found = find_variants(served, wanted.model, wanted.pretrained or None, precisions)
    if not (variants := [each for each in found if each is not None]):
        weights = f" with {wanted.pretrained}" if wanted.pretrained else ""
        raise ManifestError(
            f"{settings.model_repository}: {wanted.model}{weights} is not published here in "
            f"{' or '.join(precisions)}"
        )
    best, why = fastest(variants, processor())
    name, _ = name_of(wanted.model)
    alias = {} if name in published else {name: best.id}
    changes = {
        "fastest_of": None,
        "default_model": settings.default_model or best.id,
        "model_aliases": alias | settings.model_aliases,
    }
    also = f"{name} is" if alias else "requests that name no model are for"
    line = f"{also} {best.id}, {why}; its fingerprint is {best.fingerprint}"
    return settings.model_copy(update=changes), line


def decoder(settings: Settings) -> Decoder | DecodePool:
    """Decode in threads, or in processes, which this starts."""
    limits = ImageLimits(
        settings.max_image_bytes,
        settings.max_image_pixels,
        settings.max_resized_pixels,
        settings.max_decode_bytes,
    )
    options = DecodeOptions(settings.exif_orientation, settings.fast())
    if not settings.decode_processes:
        return Decoder(limits, options)
    return DecodePool(settings.decode_processes, limits, options, settings.decode_timeout_s)


def max_values(settings: Settings) -> int:
    """The number of JSON values that a valid request may hold; an item has up to six."""
    return 6 * settings.max_items + settings.max_labels + settings.max_prompts + 1_000


def request_limits(settings: Settings) -> RequestLimits:
    """The limits of one request."""
    return RequestLimits(
        settings.max_items,
        settings.max_labels,
        settings.max_prompts,
        settings.max_text_characters,
        settings.max_inflight_bytes,
    )


def room(settings: Settings) -> Room:
    """The limits over all requests in flight."""
    return Room(
        settings.max_inflight,
        settings.max_inflight_items,
        settings.max_inflight_bytes,
        settings.max_wait_s,
        settings.client_share,
    )


def fetcher(settings: Settings) -> "Fetcher | None":
    """Fetch images by URL; None where that is off."""
    if not settings.fetch_urls:
        return None
    from gateway.images.fetch import Fetcher, FetchRules  # brings an HTTP client

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


def batches(settings: Settings) -> Store | None:
    """The folder of files and batches; None where none is set. Raises StoreError."""
    if settings.batch_dir is None:
        return None
    return Store(
        settings.batch_dir,
        StoreLimits(
            settings.batch_max_bytes,
            settings.batch_max_files,
            settings.batch_max_lines,
            settings.batch_keep_s,
        ),
    )


def traces(settings: Settings) -> "Traces | None":
    """Send spans to a collector; None where none is set."""
    if settings.otlp_endpoint is None:
        return None
    from gateway.telemetry.traces import Traces  # needs OpenTelemetry, which is an extra

    return Traces(settings.otlp_endpoint)


def hosts(settings: Settings, bound: str) -> Hosts | None:
    """The host names that a port at this address answers to without keys; None: every name."""
    local = is_loopback(bound)
    if not (local or settings.hosts):
        return None
    return Hosts((bound, *settings.hosts), addresses=not local)


def metrics_port(settings: Settings, metrics: Metrics) -> AbstractAsyncContextManager[None]:
    """Listen on the port for metrics; nothing where they have no port of their own."""
    if settings.metrics_port is None:
        return nullcontext()
    host = settings.metrics_host or settings.host
    guard = BrowserGuard(hosts(settings, host))
    return own_port(host, settings.metrics_port, guard, metrics)


def rpc_config(settings: Settings, tls: Tls | None) -> RpcConfig:
    """The configuration of the gRPC server."""
    return RpcConfig(
        max_message_bytes=settings.max_body_bytes,
        inflight_bytes=settings.max_inflight_bytes,
        limits=request_limits(settings),
        timeout_s=settings.request_timeout_s,
        stream_window_items=settings.stream_window,
        stream_idle_s=settings.stream_idle_s,
        stream_window_bytes=min(settings.max_body_bytes, STREAM_WINDOW_BYTES),
        stream_batch_items=min(32, settings.max_items),
        reuse_port=settings.workers > 1,
        tls=tls,
    )


@dataclass(frozen=True, slots=True)
class Components:
    """What serves the requests of both protocols."""

    client: InferClient
    threads: tuple[Threads, ...]
    files: Threads  # read and write those of batches for clients
    decoder: Decoder | DecodePool
    classifiers: Classifiers
    engine: Engine
    admission: Admission
    readiness: Readiness
    updates: Updates

    async def close(self, traces: "Traces | None") -> None:
        """Close them, and the traces once no thread of a request adds to them."""
        await self.readiness.close()
        await self.client.close()
        for threads in (*self.threads, self.files):
            await threads.close()
        if traces:
            await asyncio.to_thread(traces.close)
        if isinstance(self.decoder, DecodePool):
            await asyncio.to_thread(self.decoder.close)


async def components(
    settings: Settings, models: Models, sets: LabelSets, metrics: Metrics, client: InferClient
) -> Components:
    """Build the components that serve these models and label sets."""
    threads, long = Threads(settings.threads()), Threads(1)
    cache = VectorCache(settings.text_cache_bytes, metrics.looked_up)
    limits = request_limits(settings)
    images = await asyncio.to_thread(decoder, settings)
    preparer = Preparer(threads, limits, images, fetcher(settings), long=long)
    encoders = Encoders(Batcher(client, settings.triton_calls, metrics.called), cache)
    classifiers = Classifiers(models, sets, preparer, encoders, cache)

    def doubt(fingerprint: str) -> None:
        cache.clear()
        classifiers.doubt(fingerprint)

    return Components(
        client,
        (threads, long),
        Threads(2),
        images,
        classifiers,
        Engine(models, sets, limits, Embedder(preparer, encoders), classifiers),
        Admission(room(settings)),
        Readiness(
            models, client, classifiers, doubt, every=settings.ready_all, on_states=metrics.ready
        ),
        Updates(models, selection(settings), client, classifiers, metrics.serves),
    )


class BackgroundTasks:
    """Tasks that run until the end; one that fails is logged as critical."""

    def __init__(self, work: Iterable[Coroutine[Any, Any, NoReturn]]) -> None:
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(_log_failure)

    async def end(self) -> None:
        """Cancel them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[Any]) -> None:
    # Nothing awaits it before the end, so its failure would go unnoticed.
    if task.cancelled():
        error: BaseException | None = None if task.cancelling() else asyncio.CancelledError()
    else:
        error = task.exception()
    if error is not None:
        logger.critical("a background task has failed: restart the gateway", exc_info=error)
