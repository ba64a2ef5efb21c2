"""What answers requests, and what goes on beside them: how each comes to its end."""

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from gateway.admission.permits import Admission
from gateway.images.pool import DecodePool
from gateway.images.preprocess import Decoder
from gateway.inference.client import InferClient
from gateway.operations.readiness import Readiness
from gateway.operations.updates import Updates
from gateway.pipeline.classifiers import Classifiers
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.engine import Engine
from gateway.telemetry.metrics_server import MetricsServer

if TYPE_CHECKING:
    from gateway.telemetry.traces import Traces

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Core:
    """What answers requests, whichever protocol they come by."""

    client: InferClient
    threads: tuple[Threads, ...]
    decoder: Decoder | DecodePool
    classifiers: Classifiers
    engine: Engine
    admission: Admission
    readiness: Readiness
    updates: Updates

    async def close(self, traces: "Traces | None") -> None:
        """Closes what no request uses any more, and between its parts the traces of requests."""
        await self.readiness.close()
        await self.client.close()
        for threads in self.threads:
            await threads.close()
        if traces:
            await asyncio.to_thread(traces.close)
        if isinstance(self.decoder, DecodePool):
            await asyncio.to_thread(self.decoder.close)


@dataclass(frozen=True, slots=True)
class Background:
    """What goes on beside requests."""

    following: asyncio.Task[NoReturn] | None  # the file of keys
    renewing: asyncio.Task[NoReturn] | None  # the certificate
    warming: asyncio.Task[NoReturn]
    verifying: asyncio.Task[NoReturn]
    updating: asyncio.Task[NoReturn]

    def __post_init__(self) -> None:
        tasks = self.following, self.renewing, self.warming, self.verifying, self.updating
        for task in filter(None, tasks):
            task.add_done_callback(_ended)

    async def end(self, scraped: MetricsServer | None) -> None:
        """Ends all of it, and with it the server that metrics are read from."""
        self.updating.cancel()
        for reading in (self.following, self.renewing):
            if reading:
                reading.cancel()
        if scraped:
            await asyncio.to_thread(scraped.close)
        self.warming.cancel()
        self.verifying.cancel()
        await asyncio.gather(self.updating, self.warming, self.verifying, return_exceptions=True)


def _ended(task: asyncio.Task[Any]) -> None:
    # Nobody awaits it before the end, so that its failure would be told to nobody.
    if task.cancelled():
        error: BaseException | None = None if task.cancelling() else asyncio.CancelledError()
    else:
        error = task.exception()
    if error is not None:
        logger.critical("what goes on beside requests has failed: restart", exc_info=error)
