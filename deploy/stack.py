"""`python -m deploy.stack`: runs the whole service on this machine, Triton and the gateway.

The gateway runs as a separate process; this module imports nothing from it.
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from server import ports
from server.config import ServerConfig
from server.errors import ServerError, ServerExitedError, StartTimeoutError
from server.launcher import TritonServer
from server.repository import select_models

POLL = 0.1  # seconds
WATCH = 0.5  # seconds between checks of both while they serve
DRAIN_S = 30.0  # of the gateway, if GATEWAY_DRAIN_S is not set
STOP_S = 10.0  # in addition, for it to end
REPLY_S = 5.0  # for the gateway to answer
CRASHES = 3  # consecutive ends of Triton within STEADY_S of its start that stop everything
STEADY_S = 600.0
DEMO = "demo"
LOOPBACK = "127.0.0.1"

BANNER = """
Ready: {url}   (documentation: {url}/docs; gRPC on {grpc})
Playground, in a browser: {url}/

Try it:
  curl -s {url}/v1/zero-shot -H 'content-type: application/json'{key} -d '{{
{model}    "image": "data:image/png;base64,'"$(base64 -w0 docs/samples/red-circle.png)"'",
    "labels": ["red circle", "blue circle", "red square",
               "green star", "yellow triangle", "purple heart"],
    "templates": ["a photo of a {{}}."]}}'

Stop it with Ctrl-C.
"""
WITH_KEY = """ \\
    -H "authorization: Bearer $OPENCLIP_API_KEY\""""

WITH_TLS = """\
error: GATEWAY_TLS_CERT is set, but this program speaks plain HTTP with the gateway. Unset it, or
start both separately: `python -m server`, and `python -m gateway` with GATEWAY_TRITON_ADDRESS.
"""


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Addresses of the gateway and Triton, and the models to serve."""

    host: str
    http_port: int  # of the gateway
    grpc_port: int  # of the gateway
    triton: ServerConfig
    fastest_of: dict[str, str] | None = None  # GATEWAY_FASTEST_OF; None: the gateway's own rule


class Stopped(Exception):
    """A signal stopped the program."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal arrives (exit code 0) or something fails (1)."""
    config = parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_stopped)
    try:
        serve(config)
    except Stopped:
        _ignore_signals()
        print("Stopped.", flush=True)
        return 0
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def serve(config: StackConfig) -> None:
    """Start both, print the banner, and watch both; restart a Triton that crashes.

    Raises:
        Stopped: A signal arrived, and both are stopped.
        ServerError: One did not start, or ended by itself; the other is stopped.
    """
    print(f"Starting Triton on {config.triton.model_repository} ...", flush=True)
    with KeptTriton(config.triton) as triton, _secret_file(triton.config.secret) as secret:
        print("Starting the gateway ...", flush=True)
        gateway = _start_gateway(config, triton.config, secret)
        try:
            _wait_ready(gateway, config, triton)
            print(banner(config, os.environ), flush=True)
            while True:
                _check(gateway)
                triton.keep()
                time.sleep(WATCH)
        finally:
            # Before Triton stops, so that no request reaches a gateway without it.
            _ignore_signals()
            print("Stopping ...", flush=True)
            _stop(gateway)


class KeptTriton:
    """A Triton that restarts, with the same ports and secret, when it ends by itself."""

    def __init__(self, config: ServerConfig) -> None:
        """Prepare the server without starting it.

        Raises:
            ServerError: It cannot start: see TritonServer.
        """
        self._server = TritonServer(config, log=_log)
        self._crashes = 0
        self._started = 0.0

    @property
    def config(self) -> ServerConfig:
        """The configuration, with the actual ports and secret."""
        return self._server.config

    def __enter__(self) -> Self:
        """Start it and wait until it serves."""
        self._started = time.monotonic()
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._server.stop()

    def check(self) -> None:
        """Raise ServerExitedError if it has ended."""
        if self._server.wait(0) is not None:
            raise self._server.exit_error()

    def keep(self) -> None:
        """Restart it if it has ended; return once it serves.

        Raises:
            ServerError: It keeps ending, or does not start.
        """
        try:
            self.check()
        except ServerExitedError as error:
            steady = time.monotonic() - self._started > STEADY_S
            self._crashes = 1 if steady else self._crashes + 1
            if self._crashes >= CRASHES:
                raise
            print(f"error: {error}\nStarting Triton again ...", file=sys.stderr, flush=True)
            self._server.stop()
            self._server = TritonServer(self.config, log=_log)
            self.__enter__()
            print("Triton serves again.", file=sys.stderr, flush=True)


@contextmanager
def _secret_file(secret: str) -> Iterator[str]:
    """Yield the name of an in-memory file with the secret, readable by this user alone."""
    file = os.memfd_create("secret")
    try:
        os.write(file, secret.encode())
        yield f"/proc/{os.getpid()}/fd/{file}"
    finally:
        os.close(file)


def banner(config: StackConfig, environment: Mapping[str, str]) -> str:
    """Text to print once both are ready; its command works as it stands.

    Args:
        config: The running stack.
        environment: The gateway's, which may restrict the models or require a key.

    Raises:
        RepositoryError: The model repository cannot be read.
    """
    if config.fastest_of:  # the default model; if this is a path, the model has another name
        name = config.fastest_of["model"]
        model = name if re.fullmatch(r"[\w.-]+", name) and not Path(name).exists() else ""
    else:
        chosen = json.loads(environment.get("GATEWAY_MODELS") or "[]")
        served = [each.id for each in select_models(config.triton.model_repository, chosen)]
        model = DEMO if DEMO in served else min(served)  # the demo model fits the image
    return BANNER.format(
        url=f"http://{config.host}:{config.http_port}",
        grpc=f"{config.host}:{config.grpc_port}",
        model=f'    "model": "{model}",\n' if model else "",
        key=WITH_KEY if environment.get("GATEWAY_API_KEYS_FILE") else "",
    )


def parse(arguments: Sequence[str] | None = None) -> StackConfig:
    """Read the command line, and check every port before anything starts.

    Exit with 1 if a port cannot be used, naming its variable, or if the environment turns TLS on.
    """
    parser = argparse.ArgumentParser(prog="python -m deploy.stack", description=__doc__)
    add = parser.add_argument
    add("--host", default=LOOPBACK, help="IPv4 address that the gateway listens on")
    add("--http-port", type=int, default=8080, help="port of the REST API")
    add("--grpc-port", type=int, default=8081, help="port of the gRPC API")
    add("--triton-http-port", type=_port_or_none, help="port of Triton's HTTP; unset: none")
    add("--triton-grpc-port", type=int, default=8001, help="port of Triton's gRPC")
    add("--triton-metrics-port", type=int, default=8002, help="port of Triton's metrics")
    add("--model-repository", type=Path, default=Path("model_repository"), help="folder to serve")
    add("--model", help="default model, named as for `python -m export`")
    add("--pretrained", default="", help="its weights")
    add("--precision", default="", help="precisions to choose the fastest from, such as fp32,int8")
    given = parser.parse_args(arguments)
    if os.environ.get("GATEWAY_TLS_CERT"):
        parser.exit(1, WITH_TLS)
    try:
        wanted = {
            "HTTP_PORT": (given.host, given.http_port),
            "GRPC_PORT": (given.host, given.grpc_port),
            "TRITON_GRPC_PORT": (LOOPBACK, given.triton_grpc_port),
            "TRITON_METRICS_PORT": (LOOPBACK, given.triton_metrics_port),
        }
        if given.triton_http_port is not None:
            wanted["TRITON_HTTP_PORT"] = (LOOPBACK, given.triton_http_port)
        chosen = ports.reserve(wanted)
    except ServerError as error:
        parser.exit(1, f"error: {error}\n")
    triton = ServerConfig(
        given.model_repository,
        host=LOOPBACK,  # Triton has neither keys nor TLS
        http_port=chosen.get("TRITON_HTTP_PORT"),
        grpc_port=chosen["TRITON_GRPC_PORT"],
        metrics_port=chosen["TRITON_METRICS_PORT"],
        quiet=True,
    )
    http, grpc = chosen["HTTP_PORT"], chosen["GRPC_PORT"]
    names = ("model", "pretrained", "precision")
    fastest_of = {name: getattr(given, name) for name in names} if given.model else None
    return StackConfig(given.host, http, grpc, triton, fastest_of)


def _port_or_none(value: str) -> int | None:
    return int(value) if value else None


def _log(line: str) -> None:
    if "CudaDriverHelper" not in line:  # expected on a machine without a GPU
        print(line, file=sys.stderr, flush=True)


def _start_gateway(
    config: StackConfig, triton: ServerConfig, secret_file: str
) -> subprocess.Popen[bytes]:
    # On a CPU one call takes all cores. Rows of a second call would only wait for it; while unsent,
    # they can still join a larger batch.
    defaults = {"GATEWAY_TRITON_CALLS": "1"}
    if config.fastest_of:
        defaults["GATEWAY_FASTEST_OF"] = json.dumps(config.fastest_of)
    own = {
        "GATEWAY_HOST": config.host,
        "GATEWAY_HTTP_PORT": str(config.http_port),
        "GATEWAY_GRPC_PORT": str(config.grpc_port),
        "GATEWAY_TRITON_ADDRESS": ports.addresses(triton).grpc,
        "GATEWAY_TRITON_SECRET_FILE": secret_file,
        "GATEWAY_MODEL_REPOSITORY": str(config.triton.model_repository),
    }
    # If this process is killed, the gateway stops on its own.
    child_of = [sys.executable, "-m", "deploy.child_of", str(os.getpid())]
    return subprocess.Popen(
        [*child_of, sys.executable, "-m", "gateway"],
        env=defaults | os.environ | own,
        start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
    )


def _wait_ready(gateway: subprocess.Popen[bytes], config: StackConfig, triton: KeptTriton) -> None:
    deadline = time.monotonic() + config.triton.ready_timeout
    while not _is_ready(config):
        _check(gateway)
        triton.check()
        if time.monotonic() > deadline:
            where = f"{config.host}:{config.http_port}"
            raise StartTimeoutError(f"the gateway at {where} was not ready in time")
        time.sleep(POLL)


def _is_ready(config: StackConfig) -> bool:
    connection = http.client.HTTPConnection(config.host, config.http_port, timeout=REPLY_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _check(gateway: subprocess.Popen[bytes]) -> None:
    code = gateway.poll()
    if code is not None:
        raise ServerExitedError(f"the gateway ended with exit code {code}; see its message above")


def _stop(gateway: subprocess.Popen[bytes]) -> None:
    gateway.terminate()
    drain_s = float(os.environ.get("GATEWAY_DRAIN_S") or DRAIN_S)
    try:
        gateway.wait(drain_s + STOP_S)
    except subprocess.TimeoutExpired:
        gateway.kill()
        gateway.wait()


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
