"""The record of a request, from its arrival to its answer, for metrics, log and traces."""

import logging
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.errors import Unauthenticated
from gateway.models.values import Timings
from gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:  # imported only if traces are on
    from gateway.telemetry.traces import RequestTrace, Traces

logger = logging.getLogger("gateway.request")

HEADER = "x-request-id"

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(offered: Iterable[str]) -> str:
    """The first valid id that the client sent, or a new one."""
    return next((each for each in offered if _PLAIN.fullmatch(each)), None) or os.urandom(16).hex()


@dataclass(slots=True)
class Record(Timings):
    """One request, from its arrival to its answer."""

    protocol: str = ""  # rest, grpc or batch
    method: str = ""  # of HTTP
    operation: str = ""  # the route or method; empty if none matched
    quiet: bool = False  # such as a probe: logged at `debug` only, and never traced
    request_id: str = ""
    span: "RequestTrace | None" = None  # if the request is traced
    trace_id: str = ""  # 32 hexadecimal digits, if traces are on
    key: str = ""  # the name of the API key, never the key
    spent: int = 0  # items charged to the key's quota
    code: str = ""  # HTTP status or the name of the gRPC status
    error: str = ""  # the error's code, such as invalid_image
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0  # from arrival to answer

    @property
    def modality(self) -> str:
        """The kind of the embedded items: text, image or mixed; empty if there were none."""
        if self.texts and self.images:
            return "mixed"
        return "text" if self.texts else "image" if self.images else ""

    @property
    def server_timing(self) -> str:
        """Milliseconds by stage, in the format of the header `server-timing`."""
        return ", ".join(
            f"{name};dur={seconds * 1000:.2f}" for name, seconds in self.stages.items()
        )


class Observer:
    """Records every request of both protocols in metrics, the log and traces."""

    def __init__(self, metrics: Metrics, traces: "Traces | None" = None) -> None:
        self.metrics = metrics
        self._traces = traces

    def begin(self, record: Record, headers: Iterable[tuple[str | bytes, str | bytes]]) -> None:
        """Count a request as in flight; its headers may name the caller's span."""
        self.metrics.began(record.protocol)
        if self._traces:
            self._traces.begin(record, headers)

    def end(self, record: Record, code: str) -> None:
        """Record a request that has ended with this status."""
        record.code = code
        record.seconds = time.perf_counter() - record.started
        self.metrics.ended(record)
        # A probe without its key is logged.
        quiet = record.quiet and record.error != Unauthenticated.code
        if record.span is not None and not quiet:
            record.span.end(record)
        level = logging.DEBUG if quiet else logging.INFO
        if logger.isEnabledFor(level):
            # Made here: `logger.log` takes three times as long, to look for its caller.
            what = record.operation or "no route"
            line = logging.LogRecord(logger.name, level, "", 0, "%s %s", (what, code), None)
            line.request = record
            logger.handle(line)


def fields(record: Record) -> dict[str, str | int | float]:
    """The fields of a request's log line, without the empty ones."""
    known: dict[str, str | int | float] = {
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
    known |= {f"{stage}_ms": round(s * 1000, 2) for stage, s in record.stages.items()}
    return {name: value for name, value in known.items() if value != "" and value != 0}
