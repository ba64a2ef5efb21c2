"""How uvicorn serves the application, in the one process or in each of several."""

import asyncio
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
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
BEAT_S = 1.0  # how often the event loop tells that it runs
END_S = 5.0  # that the end may take after the time for draining

Beat = Callable[[], None]

logger = logging.getLogger(__name__)


class Config(uvicorn.Config):
    """Takes the certificate from the application, whose two protocols are served with one."""

    def load_app(self) -> FastAPI:
        """The application; its context is the server's."""
        app: FastAPI = super().load_app()
        tls: Tls | None = app.state.tls
        self.ssl = tls.context if tls else None
        return app


class Server(uvicorn.Server):
    """Calls `beat` from the moment it serves until its event loop ends, drains included."""

    def __init__(self, config: uvicorn.Config, beat: Beat | None) -> None:
        super().__init__(config)
        self._beat = beat
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()

    def limit_end(self, seconds: float) -> None:
        """Ends the process with 1 where it has not ended so long after it was asked to.

        From a thread, since it may be the event loop that stands still; what everything stands at
        is told first.
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
        if first:  # a second signal may come in the midst of the first, whose lock it would want
            self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._beat:
            self._beating = asyncio.create_task(self._beats(self._beat))

    async def _beats(self, beat: Beat) -> None:
        while True:
            beat()
            await asyncio.sleep(BEAT_S)


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves."""
    limits = ConnectionLimits(
        settings.max_connections,
        settings.head_timeout_s,
        settings.min_rate,
        settings.max_inflight_bytes // 4,
    )
    http = cast("type[asyncio.Protocol]", partial(Http1, Connections(limits)))
    return Config(
        app, log_config=None, log_level="warning", access_log=False, loop="uvloop",
        http=http, ws="none", server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(each) for each in settings.trusted_proxies],
        timeout_graceful_shutdown=math.ceil(settings.drain_s), timeout_keep_alive=KEEP_ALIVE_S,
    )  # fmt: skip


def serve(
    app: FastAPI, settings: Settings, listener: socket.socket, beat: Beat | None = None
) -> None:
    """Serves until SIGINT or SIGTERM, and what is under way then."""
    server = Server(config(app, settings), beat)
    server.limit_end(settings.drain_s + END_S)
    # uvicorn takes these signals only while it runs, and raises them again at its end: one that
    # comes before is heeded so, and a stop that was asked for is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    # Until there is something to reload it is held back, and when nothing is left it says nothing.
    signal.signal(signal.SIGHUP, lambda *_: None)
    server.run(sockets=[listener])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # the end has its limit
        signal.signal(number, signal.SIG_IGN)  # unlike a handler it holds to the very end
