"""How uvicorn serves the application, in the one process or in each of several."""

import asyncio
import math
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import uvicorn
from fastapi import FastAPI

from gateway.rest.connections import ConnectionLimits, Connections
from gateway.rest.http1 import Http1
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.tls import Tls

KEEP_ALIVE_S = 75  # a proxy that closes idle connections after 60 s, as is usual, does so first
BEAT_S = 1.0  # how often the event loop tells that it runs

Beat = Callable[[], None]


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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
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
    # uvicorn takes these signals only while it runs, and raises them again at its end: one that
    # comes before is heeded so, and a stop that was asked for is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    # Until there is something to reload it is held back, and when nothing is left it says nothing.
    signal.signal(signal.SIGHUP, lambda *_: None)
    server.run(sockets=[listener])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # unlike a handler it holds to the very end
