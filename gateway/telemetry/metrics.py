"""Prometheus metrics, in base units, correct with several worker processes.

Each of several workers writes files into the folder that `PROMETHEUS_MULTIPROC_DIR` names, and any
worker can answer a scrape for all.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from gateway.models.manifest import Manifest

if TYPE_CHECKING:
    from gateway.telemetry.record import Record

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 0.75, 1, 2, 5,
    10, 30,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """All metrics of the gateway. Every label has a bounded number of values."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        self._served: set[tuple[str, ...]] = set()
        # `labels` takes longer than an update of the child that it returns, so children are cached.
        self._requests = cache(counter(
            "openclip_requests", "Requests that were answered.",
            ("protocol", "operation", "model", "modality", "code"),
        ).labels)  # fmt: skip
        self._duration = cache(histogram(
            "openclip_request_duration_seconds", "Time from a request's arrival to its answer.",
            ("protocol", "operation", "model"), buckets=_SECONDS,
        ).labels)  # fmt: skip
        self._stages = cache(histogram(
            "openclip_stage_duration_seconds",
            "Time of a request by stage: tokenize, fetch, decode, queue (for a call of Triton), "
            "infer, encode.", ("model", "stage"), buckets=_SECONDS,
        ).labels)  # fmt: skip
        self._items = cache(counter(
            "openclip_items", "Texts and images, by whether they were embedded.",
            ("protocol", "model", "modality", "result"),
        ).labels)  # fmt: skip
        self._rejected = counter(
            "openclip_rejected", "Requests that were refused, by the error's code.",
            ("protocol", "reason"),
        )  # fmt: skip
        self._key_requests = counter(
            "openclip_key_requests",
            "Requests by the name of their API key, if keys are required.", ("key", "code"),
        )  # fmt: skip
        self._key_items = counter(
            "openclip_key_items", "Items charged to the quota of an API key.", ("key",)
        )
        self._lines = counter(
            "openclip_batch_lines", "Lines of batches that were answered.", ("model", "code")
        )
        self._inflight = cache(gauge(
            "openclip_inflight", "Requests in flight.", ("protocol",),
            multiprocess_mode="livesum",
        ).labels)  # fmt: skip
        self._batch = cache(histogram(
            "openclip_batch_items", "Rows in one call of Triton.", ("tower",), buckets=_ROWS
        ).labels)  # fmt: skip
        self._hits = counter("openclip_cache_hits", "Texts and labels whose vector was cached.")
        self._misses = counter("openclip_cache_misses", "Texts and labels that were encoded.")
        self._info = gauge(
            "openclip_model_info", "1 for each served model, 0 for formerly served ones.",
            ("model", "fingerprint", "precision", "runtime"), multiprocess_mode="livemax",
        )  # fmt: skip
        self._ready = gauge(
            "openclip_model_ready", "1 for each model that gives right answers, else 0; the "
            "minimum of several processes.", ("model",), multiprocess_mode="livemin",
        )  # fmt: skip
        self._tritons = gauge(
            "openclip_triton_servers",
            "Triton servers by state: answering, or broken (breaker open).",
            ("state",), multiprocess_mode="livemax",
        )  # fmt: skip
        self._expiry = gauge(
            "openclip_certificate_expiry_timestamp_seconds", "Expiry of the served certificate; 0 "
            "without TLS.", multiprocess_mode="livemin",
        )  # fmt: skip

    def tritons(self, answering: int, broken: int) -> None:
        """Set the numbers of Tritons that answer and that do not."""
        self._tritons.labels("answering").set(answering)
        self._tritons.labels("broken").set(broken)

    def serves(self, manifests: Iterable[Manifest]) -> None:
        """Set which models are served."""
        now: set[tuple[str, ...]] = {
            (each.id, each.fingerprint, each.precision, each.runtime) for each in manifests
        }
        for gone in self._served - now:
            self._info.labels(*gone).set(0)
        for labels in now:
            self._info.labels(*labels).set(1)
        self._served = now

    def ready(self, models: Mapping[str, bool]) -> None:
        """Set which of the served models are ready."""
        for model, ready in models.items():
            self._ready.labels(model).set(ready)

    def certificate(self, expires: float) -> None:
        """Set when the served certificate expires, in Unix seconds."""
        self._expiry.set(expires)

    def began(self, protocol: str) -> None:
        """Count a request that arrived."""
        self._inflight(protocol).inc()

    def ended(self, record: "Record") -> None:
        """Count a request that was answered."""
        protocol, model = record.protocol, record.model
        self._inflight(protocol).dec()
        self._requests(protocol, record.operation, model, record.modality, record.code).inc()
        self._duration(protocol, record.operation, model).observe(record.seconds)
        for stage, seconds in record.stages.items():
            self._stages(model, stage).observe(seconds)
        if record.key:
            self._key_requests.labels(record.key, record.code).inc()
        self._embedded(record)
        if record.error:
            self._rejected.labels(protocol, record.error).inc()

    def _embedded(self, record: "Record") -> None:
        for modality, count in (("text", record.texts), ("image", record.images)):
            if count:
                self._items(record.protocol, record.model, modality, "ok").inc(count)
        if record.failed:
            self._items(record.protocol, record.model, "", "error").inc(record.failed)
        if record.key:
            self._key_items.labels(record.key).inc(record.spent)

    def answered_line(self, record: "Record") -> None:
        """Count a line of a batch that was answered."""
        self._lines.labels(record.model, record.code).inc()
        self._embedded(record)

    def called(self, model: str, rows: int) -> None:
        """Count a call of one of Triton's models."""
        self._batch(model).observe(rows)

    def looked_up(self, hits: int, misses: int) -> None:
        """Count lookups in the cache of vectors."""
        self._hits.inc(hits)
        self._misses.inc(misses)

    def rendered(self) -> bytes:
        """The answer to a scrape. With several workers it reads files: call it in a thread."""
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        folder = Path(os.environ[FOLDER])
        folder.mkdir(mode=0o700, exist_ok=True)  # if it was removed, the counts start at 0
        for path in folder.glob("gauge_live*.db"):
            process = path.stem.rpartition("_")[2]
            if not Path("/proc", process).exists():  # killed with requests in flight
                with contextlib.suppress(FileNotFoundError):  # another scrape was first
                    multiprocess.mark_process_dead(int(process))  # type: ignore[no-untyped-call]
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
