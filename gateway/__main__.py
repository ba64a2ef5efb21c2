"""`python -m gateway`: reads the settings and serves until stopped."""

import argparse
import difflib
import logging
import os
import signal
import socket
import sys
import warnings

import uvicorn
from pydantic import ValidationError

from gateway.app import create_app, load_models
from gateway.manifest import ManifestError
from gateway.settings import Settings

PREFIX = "GATEWAY_"


class StartError(Exception):
    """The gateway cannot start; the message says why and what to do."""


def main() -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code."""
    _arguments()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    # What Pillow finds odd in a client's picture is the client's affair, not the log's.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        settings = load_settings()
        models = load_models(settings)
        listener = listen(settings.host, settings.http_port)
    except (StartError, ManifestError) as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 1
    app = create_app(settings, models)
    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop")
    host, port = listener.getsockname()[:2]
    logging.info("serving %s on http://%s:%d", ", ".join(models), host, port)
    # uvicorn drains on these signals, then raises them again for whoever handled them before:
    # a stop that was asked for is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def load_settings() -> Settings:
    """The settings from the environment.

    Raises:
        StartError: One is wrong, or a `GATEWAY_` variable is none of them.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise StartError(f"{name}: no such setting" + (f"; {near[0]}?" if near else ""))
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise StartError(f"{name}: {first['msg']}") from error


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is known before anything starts.

    Raises:
        StartError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror}; set GATEWAY_HTTP_PORT"
        ) from error
    listener.setblocking(False)
    return listener


def _arguments() -> None:
    lines = [
        f"  {PREFIX}{name.upper()}\n      {field.description}"
        for name, field in Settings.model_fields.items()
    ]
    argparse.ArgumentParser(
        prog="python -m gateway",
        description="Serves the models of a Triton model repository over REST.",
        epilog="environment variables:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()


if __name__ == "__main__":
    sys.exit(main())
