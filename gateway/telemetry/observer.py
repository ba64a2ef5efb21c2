"""Records each request in metrics, the log and traces."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.errors import Unauthenticated
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import Record

if TYPE_CHECKING:  # imported only where traces are on
    from gateway.telemetry.traces import Traces

logger = logging.getLogger("gateway.request")


class Observer:
    """Records every request, of either protocol."""

    def __init__(self, metrics: Metrics, traces: "Traces | None" = None) -> None:
        self.metrics = metrics
        self._traces = traces

    @contextmanager
    def observing(
        self, record: Record, headers: Iterable[tuple[str | bytes, str | bytes]] = ()
    ) -> Iterator[None]:
        """Around a request: counts it as in flight, and records it when the block ends.

        Args:
            record: The request's record; the block ends it.
            headers: The request's headers, which may name the caller's span.
        """
        self.metrics.began(record.protocol)
        trace = self._traces.begin(record, headers) if self._traces else None
        try:
            yield
        finally:
            self.metrics.ended(record)
            # A probe without its key is logged.
            quiet = record.quiet and record.error != Unauthenticated.code
            if trace is not None and not quiet:
                trace.end(record)
            level = logging.DEBUG if quiet else logging.INFO
            if logger.isEnabledFor(level):
                extra = {"request": record}
                logger.log(level, "%s %s", record.operation or "no route", record.code, extra=extra)


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
