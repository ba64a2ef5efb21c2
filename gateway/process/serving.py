"""Serve the application with uvicorn, in the only process or in each worker."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, cast

import uvicorn
from fastapi import FastAPI

from gateway.process.stacks import stacks
from gateway.rest.connections import ConnectionLimits, Connections
from gateway.rest.http1 import Http1
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.access.tls import Tls

KEEP_ALIVE_S = 75  # a proxy that closes idle connections after 60 s, as is usual, does so first
TICK_S = 1.0  # between writings of the `Date` header
END_S = 5.0  # for the end, after the time for draining

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn's server, with a limit of the time that its end takes."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()  # set as soon as SIGINT or SIGTERM comes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()  # the same, for a thread

    def limit_end(self, seconds: float) -> None:
        """End the process with exit code 1 if a stop takes longer than this.

        A thread does it, since the event loop itself may hang. It logs all stacks first.
        """

        def limit() -> None:
            self._stopping.wait()
            time.sleep(seconds)
            try:
                logger.critical(
                    "not ended %g seconds after it was asked to, so it is cut short:\n%s",
                    seconds, stacks(self._loop),
                )  # fmt: skip
                logging.shutdown()
            finally:
                os._exit(1)

        threading.Thread(target=limit, name="end", daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server.handle_exit`."""
        first = not self.should_exit
        super().handle_exit(sig, frame)
        if first:  # a second signal may interrupt the first, which holds the event's lock
            self._stopping.set()
            if self._loop:
                self._loop.call_soon_threadsafe(self.stop.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
        self._loop = asyncio.get_running_loop()
        if self._stopping.is_set():
            self.stop.set()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """See `uvicorn.Server.main_loop`, which looks ten times a second whether it should end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self.stop.wait()


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The configuration of uvicorn."""
    tls: Tls | None = app.state.tls
    limits = ConnectionLimits(
        settings.max_connections,
        settings.head_timeout_s,
        settings.min_rate,
        settings.max_inflight_bytes // 4,
    )
    http = cast("type[asyncio.Protocol]", partial(Http1, Connections(limits)))
    return uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, loop="uvloop",
        http=http, ws="none", server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(each) for each in settings.trusted_proxies],
        timeout_graceful_shutdown=math.ceil(settings.drain_s), timeout_keep_alive=KEEP_ALIVE_S,
        ssl_context_factory=(lambda *_: tls.context) if tls else None,
    )  # fmt: skip


def serve(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests under way."""
    server = Server(config(app, settings))
    server.limit_end(settings.drain_s + END_S)
    app.state.stop = server.stop
    # uvicorn handles these signals only while it runs, and raises them again at its end. With
    # this handler, one that comes earlier counts, and a stop by a signal is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    # SIGHUP is blocked until there is something to reload, and does nothing after the lifespan.
    signal.signal(signal.SIGHUP, lambda *_: None)
    server.run(sockets=[listener])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # unlike a handler, this holds to the very end
