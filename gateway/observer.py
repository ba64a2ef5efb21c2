"""Tells metrics and the log of each request."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.metrics import Metrics
from gateway.record import Record

PROBES = ("/livez", "/readyz", "/health", "/v1/health/live", "/v1/health/ready", "/metrics")

logger = logging.getLogger("gateway.request")


class Observer:
    """Sees every request of either protocol."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    @contextmanager
    def observing(self, record: Record) -> Iterator[None]:
        """While a request is worked on; the block ends the record."""
        self.metrics.began(record.protocol)
        try:
            yield
        finally:
            self.metrics.ended(record)
            level = logging.DEBUG if record.operation in PROBES else logging.INFO
            if logger.isEnabledFor(level):
                logger.log(level, "%s %s", record.operation or "no route", record.code,
                           extra={"request": fields(record)})  # fmt: skip


def fields(record: Record) -> dict[str, str | int | float]:
    """What a line of the log says of a request; what it does not have is left out."""
    told: dict[str, str | int | float] = {
        "request_id": record.request_id,
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
