"""What answers requests, and what goes on beside them: how each comes to its end."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from gateway.admission import Admission
from gateway.classifiers import Classifiers
from gateway.concurrency import Threads
from gateway.decodepool import DecodePool
from gateway.engine import Engine
from gateway.images import Decoder
from gateway.inference import InferClient
from gateway.readiness import Readiness
from gateway.scrape import MetricsServer
from gateway.updates import Updates

if TYPE_CHECKING:
    from gateway.traces import Traces


@dataclass(frozen=True, slots=True)
class Core:
    """What answers requests, whichever protocol they come by."""

    client: InferClient
    threads: Threads
    decoder: Decoder | DecodePool
    classifiers: Classifiers
    engine: Engine
    admission: Admission
    readiness: Readiness
    updates: Updates

    async def close(self, traces: "Traces | None") -> None:
        """Closes what no request uses any more, and between its parts the traces of requests."""
        await self.client.close()
        await self.threads.close()
        if traces:
            await asyncio.to_thread(traces.close)
        if isinstance(self.decoder, DecodePool):
            await asyncio.to_thread(self.decoder.close)


@dataclass(frozen=True, slots=True)
class Background:
    """What goes on beside requests."""

    following: asyncio.Task[NoReturn] | None  # the file of keys
    warming: asyncio.Task[None]
    verifying: asyncio.Task[NoReturn]
    updating: asyncio.Task[NoReturn]

    async def end(self, scraped: MetricsServer | None) -> None:
        """Ends all of it, and with it the server that metrics are read from."""
        self.updating.cancel()
        if self.following:
            self.following.cancel()
        if scraped:
            await asyncio.to_thread(scraped.close)
        self.warming.cancel()
        self.verifying.cancel()
        await asyncio.gather(self.updating, self.warming, self.verifying, return_exceptions=True)
