"""Several gateway processes behind one pair of ports.

All accept from the one REST socket, and the kernel shares the gRPC port among them. A process
that dies is replaced.
"""

import ctypes
import math
import os
import signal
import socket
import sys
import tempfile
import warnings
from contextlib import ExitStack

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from gateway.app import create_app, load
from gateway.logs import logging_to_stderr
from gateway.serving import Config
from gateway.settings import Settings

_PR_SET_PDEATHSIG = 1

HEALTHY_S = 60  # a worker that is only slow to be scheduled must not be taken for hung
KEEP_ALIVE_S = 75  # a proxy that closes idle connections after 60 s, as is usual, does so first

_logging = ExitStack()  # of a worker process, for as long as it lives


def config(app: FastAPI | str, settings: Settings, *, workers: int = 1) -> uvicorn.Config:
    """How uvicorn serves the app, or what makes it: the name of a function, `module:function`."""
    return Config(
        app, log_config=None, log_level="warning", access_log=False, loop="uvloop",
        http="gateway.rest.http1:Http1", ws="none", workers=workers, server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_s), timeout_keep_alive=KEEP_ALIVE_S,
        timeout_worker_healthcheck=HEALTHY_S,
    )  # fmt: skip


def run(settings: Settings, listener: socket.socket) -> None:
    """Serves with `settings.workers` processes until SIGINT or SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="openclip-metrics-") as folder:
        # Read where a worker imports prometheus_client, and by `create`.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        os.environ["GATEWAY_GRPC_PORT"] = str(settings.grpc_port)
        several = config("gateway.workers:create", settings, workers=settings.workers)
        _Workers(several, sockets=[listener]).run()


class _Workers(Multiprocess):
    """Passes on what asks for new versions of models, where uvicorn would restart every process."""

    def terminate_all(self) -> None:
        """The end was asked for: from now on a client that knocks is refused, and not kept waiting.

        Otherwise this process, which accepts from none of them, would keep the sockets open.
        """
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def handle_hup(self) -> None:
        """SIGHUP came."""
        for process in self.processes:
            if process.pid is not None and process.process.is_alive():
                os.kill(process.pid, signal.SIGHUP)


def create() -> FastAPI:
    """The application of a worker process, from its environment."""
    # Should the parent be killed, the worker stops by itself.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit(1)
    warnings.filterwarnings("ignore", module="PIL")
    settings = Settings()
    _logging.enter_context(logging_to_stderr(settings.log_level, settings.log_format))
    return create_app(settings, load(settings))
