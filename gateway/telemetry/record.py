"""What is known of a request, from its id to its end, and how metrics and the log learn of it."""

import logging
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.errors import Unauthenticated
from gateway.models.values import Timings
from gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from gateway.telemetry.traces import Traces

HEADER = "x-request-id"

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(offered: Iterable[str]) -> str:
    """The first plain id among those that the client sent, or else a new one."""
    return next((each for each in offered if _PLAIN.fullmatch(each)), None) or uuid.uuid4().hex


@dataclass(slots=True)
class Record(Timings):
    """One request, from its arrival to its answer."""

    protocol: str = ""  # rest or grpc
    method: str = ""  # of HTTP
    operation: str = ""  # the route or method; empty where none matched
    request_id: str = ""
    trace_id: str = ""  # 32 hexadecimal digits, where there are traces
    key: str = ""  # the name of the API key, never the key
    spent: int = 0  # items taken from the key's quota
    code: str = ""  # HTTP status or the name of the gRPC status
    error: str = ""  # the error's code, such as invalid_image
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0  # from arrival to answer

    @property
    def modality(self) -> str:
        """What was embedded: text, image or mixed; empty where nothing was."""
        if self.texts and self.images:
            return "mixed"
        return "text" if self.texts else "image" if self.images else ""

    def end(self, code: str) -> None:
        """Takes the time and the status."""
        self.code = code
        self.seconds = time.perf_counter() - self.started


LIVE = ("/livez", "/v1/health/live")  # the names of one probe
READY = ("/readyz", "/v1/health/ready", "/health", "/v1/health")
PROBES = (*LIVE, *READY, "/metrics")
PAGE = ("/", "/playground/{name}", "/playground.json")  # a browser asks for some twenty files
DOCS = ("/docs", "/openapi.json", "/static-offline-docs")  # the page and its files
QUIET = frozenset(PROBES + PAGE + DOCS)  # no news: logged at `debug` only, and never traced

logger = logging.getLogger("gateway.request")


class Observer:
    """Sees every request of either protocol."""

    def __init__(self, metrics: Metrics, traces: "Traces | None" = None) -> None:
        self.metrics = metrics
        self._traces = traces

    @contextmanager
    def observing(
        self, record: Record, headers: Iterable[tuple[str | bytes, str | bytes]] = ()
    ) -> Iterator[None]:
        """While a request is worked on; the block ends the record.

        Args:
            record: Of the request.
            headers: May name the caller's span.
        """
        self.metrics.began(record.protocol)
        trace = self._traces.begin(record, headers) if self._traces else None
        try:
            yield
        finally:
            self.metrics.ended(record)
            # A scraper without its key is news.
            quiet = record.operation in QUIET and record.error != Unauthenticated.code
            if trace is not None and not quiet:
                trace.end(record)
            level = logging.DEBUG if quiet else logging.INFO
            if logger.isEnabledFor(level):
                extra = {"request": record}
                logger.log(level, "%s %s", record.operation or "no route", record.code, extra=extra)


def fields(record: Record) -> dict[str, str | int | float]:
    """What a line of the log says of a request; what it does not have is left out."""
    told: dict[str, str | int | float] = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "protocol": record.protocol,
        "operation": record.operation,
        "code": record.code,
        "error": record.error,
        "key": record.key,
        "model": record.model,
        "texts": record.texts,
        "images": record.images,
        "failed": record.failed,
        "ms": round(record.seconds * 1000, 2),
    }
    told |= {f"{stage}_ms": round(s * 1000, 2) for stage, s in record.stages.items()}
    return {name: value for name, value in told.items() if value != "" and value != 0}
