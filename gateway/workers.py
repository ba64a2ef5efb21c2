"""Several gateway processes behind one pair of ports.

All accept from the one REST socket, and the kernel shares the gRPC port among them. A process
that dies is replaced.
"""

import ctypes
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
from gateway.settings import Settings

_PR_SET_PDEATHSIG = 1

_logging = ExitStack()  # of a worker process, for as long as it lives


def config(app: FastAPI | str, *, factory: bool = False, workers: int = 1) -> uvicorn.Config:
    """How uvicorn serves the app."""
    return uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, loop="uvloop",
        http="httptools", factory=factory, workers=workers,
    )  # fmt: skip


def run(settings: Settings, listener: socket.socket) -> None:
    """Serves with `settings.workers` processes until SIGINT or SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="openclip-metrics-") as folder:
        # Read where a worker imports prometheus_client, and by `create`.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        os.environ["GATEWAY_GRPC_PORT"] = str(settings.grpc_port)
        several = config("gateway.workers:create", factory=True, workers=settings.workers)
        Multiprocess(several, sockets=[listener]).run()


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
