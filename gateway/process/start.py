"""Start the gateway: read the settings and the model repository, take the ports, serve."""

import difflib
import importlib
import logging
import os
import re
import resource
import socket
import sys
import warnings
from contextlib import ExitStack

from pydantic import ValidationError
from pydantic_settings import SettingsError

from gateway.app import NOT_LOADED, create_app, load
from gateway.build import with_fastest
from gateway.images import heap
from gateway.process import workers
from gateway.process.ports import PortError, listen, reserve
from gateway.process.serving import serve
from gateway.rpc.server import MAX_CONNECTIONS
from gateway.settings import PREFIX, Settings
from gateway.telemetry.logs import logging_to_stderr

JSON_EXAMPLES = {
    "models": '["a", "b"]', "model_aliases": '{"a": "b"}', "fetch_hosts": '["a", "b"]',
    "fetch_ports": "[1, 2]", "hosts": '["a", "b"]', "trusted_proxies": '["a", "b"]',
    "cors_origins": '["https://a", "https://b"]',
}  # fmt: skip

OTHER_FILES = 512  # of a process: Triton, images by URL, libraries, scrapers

logger = logging.getLogger("gateway")


class StartError(Exception):
    """The gateway cannot start; the message says why and what to do."""


STOPPED_BY = (StartError, PortError, *NOT_LOADED)


def start() -> int:
    """Serve until SIGINT or SIGTERM; return the exit code. The caller blocks SIGHUP."""
    heap.pin()
    # Pillow's warnings are about clients' images; they do not belong in the log.
    warnings.filterwarnings("ignore", module="PIL")
    with ExitStack() as stack:
        try:
            settings, chosen = with_fastest(load_settings())
            loaded = load(settings)
            listener = stack.enter_context(listen(settings.host, settings.http_port))
            grpc = stack.enter_context(reserve(settings.host, settings.grpc_port))
            if settings.metrics_port is not None:
                host = settings.metrics_host or settings.host
                names = "GATEWAY_METRICS_PORT", "GATEWAY_METRICS_HOST"
                stack.enter_context(reserve(host, settings.metrics_port, *names))
        except STOPPED_BY as error:
            sys.stderr.write(f"gateway: {error}\n")
            return 1
        stack.enter_context(logging_to_stderr(settings.log_level, settings.log_format))
        _raise_open_files(settings.max_connections + MAX_CONNECTIONS + OTHER_FILES)
        if settings.jpeg_draft:
            logger.warning("GATEWAY_JPEG_DRAFT: use its new name, GATEWAY_PREPROCESSING=fast")
        if chosen:
            logger.info("%s", chosen)
        settings = settings.model_copy(update={"grpc_port": grpc.getsockname()[1]})
        served = ", ".join(model.manifest.id for model in loaded.models)
        host, port = listener.getsockname()[:2]
        logger.info(
            "serving %s on %s://%s:%d and %s://%s:%d", served,
            "https" if loaded.tls else "http", host, port,
            "grpcs" if loaded.tls else "grpc", host, settings.grpc_port,
        )  # fmt: skip
        if settings.workers > 1:
            return _several(settings, listener)
        grpc.close()
        serve(create_app(settings, loaded), settings, listener)
        return 0


def _raise_open_files(wanted: int) -> None:
    """Raise the limit of open files as far as the system lets, here and in the processes started.

    A process that reaches it accepts nobody until a connection ends.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < wanted:
        logger.warning(
            "at most %d files can be open (ulimit -Hn), and all connections may take %d: raise it, "
            "or lower GATEWAY_MAX_CONNECTIONS", hard, wanted,
        )  # fmt: skip


def _several(settings: Settings, listener: socket.socket) -> int:
    try:
        return workers.run(settings, listener)
    except OSError as error:
        logger.error("worker processes cannot be started: %s", error)
        return 1


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        StartError: One is wrong, or a `GATEWAY_` variable is none of them.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            raise StartError(f"{name}: no such setting" + (f"; {near[0]}?" if near else ""))
    try:
        settings = Settings()
        if settings.otlp_endpoint:
            importlib.import_module("gateway.telemetry.traces")
        return settings
    except ModuleNotFoundError as error:
        raise StartError(
            f"GATEWAY_OTLP_ENDPOINT: {error.name} is not installed; install the extra `otel`"
        ) from error
    except SettingsError as error:  # what should be a list or an object is no JSON
        field = re.findall(r'"(\w+)"', str(error))[0]
        raise StartError(
            f"{PREFIX}{field.upper()}: must be JSON, such as {JSON_EXAMPLES[field]}"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise StartError(message) from error
        field, *places = first["loc"]
        name = PREFIX + str(field).upper() + "".join(f"[{place}]" for place in places)
        raise StartError(f"{name}: {message}") from error
