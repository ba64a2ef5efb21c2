"""How uvicorn serves the application, in the one process or in each of several."""

import math
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.tls import Tls

KEEP_ALIVE_S = 75  # a proxy that closes idle connections after 60 s, as is usual, does so first
BEAT_S = 5  # how often the event loop tells that it runs

Beat = Callable[[], Awaitable[None]]


class Config(uvicorn.Config):
    """Takes the certificate from the application, whose two protocols are served with one."""

    def load_app(self) -> FastAPI:
        """The application; its context is the server's."""
        app: FastAPI = super().load_app()
        tls: Tls | None = app.state.tls
        self.ssl = tls.context if tls else None
        return app


def config(app: FastAPI, settings: Settings, beat: Beat | None = None) -> uvicorn.Config:
    """How uvicorn serves; `beat` is called while it does, as soon as it does."""
    return Config(
        app, log_config=None, log_level="warning", access_log=False, loop="uvloop",
        http="gateway.rest.http1:Http1", ws="none", server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_s), timeout_keep_alive=KEEP_ALIVE_S,
        callback_notify=beat, timeout_notify=BEAT_S,
    )  # fmt: skip


def serve(
    app: FastAPI, settings: Settings, listener: socket.socket, beat: Beat | None = None
) -> None:
    """Serves until SIGINT or SIGTERM, and what is under way then."""
    server = uvicorn.Server(config(app, settings, beat))
    # uvicorn takes these signals only while it runs, and raises them again at its end: one that
    # comes before is heeded so, and a stop that was asked for is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listener])
