"""Prometheus metrics, in base units, right with several worker processes as well.

With several workers each writes to files in the folder that `PROMETHEUS_MULTIPROC_DIR` names, and
any of them can answer for all.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from gateway.manifest import Manifest
from gateway.record import Record

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 0.75, 1, 2, 5,
    10, 30,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Everything that the gateway counts. Labels hold only what is bounded."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        request = ("protocol", "operation", "model", "modality", "code")
        self._requests = Counter(
            "openclip_requests", "Requests that were answered.", request, registry=registry
        )
        self._duration = Histogram(
            "openclip_request_duration_seconds",
            "From the arrival of a request until its answer.",
            ("protocol", "operation", "model"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "openclip_stage_duration_seconds",
            "What a request waited for: tokenize, decode, queue (for a call of Triton), infer, "
            "encode.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._items = Counter(
            "openclip_items",
            "Texts and images, by whether they were embedded.",
            ("protocol", "model", "modality", "result"),
            registry=registry,
        )
        self._rejected = Counter(
            "openclip_rejected",
            "Requests that were refused, by the error's code.",
            ("protocol", "reason"),
            registry=registry,
        )
        self._inflight = Gauge(
            "openclip_inflight",
            "Requests that are worked on.",
            ("protocol",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._batch = Histogram(
            "openclip_batch_items",
            "Rows in one call of Triton.",
            ("tower",),
            buckets=_ROWS,
            registry=registry,
        )
        self._hits = Counter(
            "openclip_cache_hits", "Texts and labels whose vector was known.", registry=registry
        )
        self._misses = Counter(
            "openclip_cache_misses", "Texts and labels that were encoded.", registry=registry
        )
        self._info = Gauge(
            "openclip_model_info",
            "1 for each served model.",
            ("model", "fingerprint", "precision", "runtime"),
            multiprocess_mode="max",
            registry=registry,
        )

    def serves(self, manifests: Iterable[Manifest]) -> None:
        """Tells which models are served."""
        for each in manifests:
            self._info.labels(each.id, each.fingerprint, each.precision, each.runtime).set(1)

    def began(self, protocol: str) -> None:
        """A request arrived."""
        self._inflight.labels(protocol).inc()

    def ended(self, record: Record) -> None:
        """A request was answered."""
        protocol, model = record.protocol, record.model
        self._inflight.labels(protocol).dec()
        self._requests.labels(protocol, record.operation, model, record.modality, record.code).inc()
        self._duration.labels(protocol, record.operation, model).observe(record.seconds)
        for stage, seconds in record.stages.items():
            self._stages.labels(model, stage).observe(seconds)
        for modality, count in (("text", record.texts), ("image", record.images)):
            if count:
                self._items.labels(protocol, model, modality, "ok").inc(count)
        if record.failed:
            self._items.labels(protocol, model, "", "error").inc(record.failed)
        if record.error:
            self._rejected.labels(protocol, record.error).inc()

    def called(self, tower: str, rows: int) -> None:
        """A call went to Triton."""
        self._batch.labels(tower).observe(rows)

    def looked_up(self, hits: int, misses: int) -> None:
        """The cache was asked."""
        self._hits.inc(hits)
        self._misses.inc(misses)

    def rendered(self) -> bytes:
        """What a scrape is answered. With several workers this reads files: call it in a thread."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*.db"):
            process = path.stem.rpartition("_")[2]
            if not Path("/proc", process).exists():  # it was killed, with requests in flight
                multiprocess.mark_process_dead(int(process))  # type: ignore[no-untyped-call]
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
