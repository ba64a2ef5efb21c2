"""`python -m server.stack`: the whole service on this machine, Triton and the gateway before it.

The gateway is a process of its own; nothing of it is imported here.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from server import health, ports
from server.config import ServerConfig
from server.errors import ServerError, ServerExitedError, StartTimeoutError
from server.guard import PR_SET_PDEATHSIG
from server.launcher import TritonServer
from server.repository import select_models

POLL = 0.1  # seconds
DRAIN_S = 30.0  # of the gateway, where GATEWAY_DRAIN_S says nothing
STOP_S = 10.0  # beyond that, for it to end
DEMO = "demo"

BANNER = """
Ready: {url}   (documentation: {url}/docs; gRPC on {grpc})
Playground, in a browser: {url}/

Try it:
  curl -s {url}/v1/zero-shot -H 'content-type: application/json'{key} -d '{{
    "model": "{model}",
    "image": "data:image/png;base64,'"$(base64 -w0 docs/samples/red-circle.png)"'",
    "labels": ["red circle", "blue circle", "red square",
               "green star", "yellow triangle", "purple heart"],
    "templates": ["a photo of a {{}}."]}}'

Stop it with Ctrl-C.
"""
WITH_KEY = """ \\
    -H "authorization: Bearer $OPENCLIP_API_KEY\""""

WITH_TLS = """\
error: GATEWAY_TLS_CERT is set, and this program speaks plain HTTP with the gateway. Unset it, or
start the two apart: `python -m server`, and `python -m gateway` with GATEWAY_TRITON_ADDRESS.
"""


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Where everything listens, and what is served."""

    model_repository: Path
    host: str
    http_port: int  # of the gateway
    grpc_port: int  # of the gateway
    triton: ServerConfig


class Stopped(Exception):
    """A signal asked for the end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal comes (0), or until something fails (1)."""
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
    """Start both, announce them, and watch them.

    Raises:
        Stopped: a signal came, and both are stopped.
        ServerError: one of them could not be started, or ended by itself; the other is stopped.
    """
    print(f"Starting Triton on {config.model_repository} ...", flush=True)
    triton = TritonServer(config.triton, log=_log)
    with triton:
        print("Starting the gateway ...", flush=True)
        gateway = _start_gateway(config, triton.addresses.grpc)
        try:
            _wait_ready(gateway, f"{config.host}:{config.http_port}", triton)
            print(banner(config, os.environ), flush=True)
            _watch(gateway, triton)
        finally:
            # Before Triton stops, so that no request meets a gateway without it.
            _ignore_signals()
            print("Stopping ...", flush=True)
            _stop(gateway)


def banner(config: StackConfig, environment: Mapping[str, str]) -> str:
    """What is told once both are ready; its command works as it stands.

    Args:
        config: Where everything listens, and what is served.
        environment: Of the gateway: it may serve some of the models only, or ask for a key.

    Raises:
        RepositoryError: the model repository cannot be read.
    """
    chosen = json.loads(environment.get("GATEWAY_MODELS") or "[]")
    served = [each.id for each in select_models(config.model_repository, chosen)]
    return BANNER.format(
        url=f"http://{config.host}:{config.http_port}",
        grpc=f"{config.host}:{config.grpc_port}",
        model=DEMO if DEMO in served else min(served),  # the demo knows the image
        key=WITH_KEY if environment.get("GATEWAY_API_KEYS_FILE") else "",
    )


def parse(arguments: Sequence[str] | None = None) -> StackConfig:
    """Read the command line, and check every port before anything starts.

    Exits with 1 and a message that names the variable where a port cannot be used, or where the
    gateway would begin to serve with TLS.
    """
    parser = argparse.ArgumentParser(prog="python -m server.stack", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="IPv4 address to listen on")
    add("--http-port", type=int, default=8080, help="port of the REST API")
    add("--grpc-port", type=int, default=8081, help="port of the gRPC API")
    add("--triton-http-port", type=int, default=8000, help="port of Triton's HTTP")
    add("--triton-grpc-port", type=int, default=8001, help="port of Triton's gRPC")
    add("--triton-metrics-port", type=int, default=8002, help="port of Triton's metrics")
    add("--model-repository", type=Path, default=Path("model_repository"), help="folder to serve")
    given = parser.parse_args(arguments)
    if os.environ.get("GATEWAY_TLS_CERT"):
        parser.exit(1, WITH_TLS)
    try:
        chosen = ports.reserve(
            given.host,
            {
                "HTTP_PORT": given.http_port,
                "GRPC_PORT": given.grpc_port,
                "TRITON_HTTP_PORT": given.triton_http_port,
                "TRITON_GRPC_PORT": given.triton_grpc_port,
                "TRITON_METRICS_PORT": given.triton_metrics_port,
            },
        )
    except ServerError as error:
        parser.exit(1, f"error: {error}\n")
    triton = ServerConfig(
        given.model_repository,
        host=given.host,
        http_port=chosen["TRITON_HTTP_PORT"],
        grpc_port=chosen["TRITON_GRPC_PORT"],
        metrics_port=chosen["TRITON_METRICS_PORT"],
        quiet=True,
    )
    return StackConfig(
        given.model_repository, given.host, chosen["HTTP_PORT"], chosen["GRPC_PORT"], triton
    )


def _log(line: str) -> None:
    if "CudaDriverHelper" not in line:  # Triton's only complaint of a machine without a GPU
        print(line, file=sys.stderr, flush=True)


def _start_gateway(config: StackConfig, triton_address: str) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None)
    # On a CPU one call takes all cores; a second would wait, and its rows with it, while they could
    # have joined what comes.
    defaults = {"GATEWAY_TRITON_CALLS": "1"}
    own = {
        "GATEWAY_HOST": config.host,
        "GATEWAY_HTTP_PORT": str(config.http_port),
        "GATEWAY_GRPC_PORT": str(config.grpc_port),
        "GATEWAY_TRITON_ADDRESS": triton_address,
        "GATEWAY_MODEL_REPOSITORY": str(config.model_repository),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        env=defaults | os.environ | own,
        start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
        # Should this process be killed, the gateway stops by itself.
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def _wait_ready(gateway: subprocess.Popen[bytes], address: str, triton: TritonServer) -> None:
    deadline = time.monotonic() + triton.config.ready_timeout
    while not health.is_ready(address, "/readyz"):
        _check(gateway, triton)
        if time.monotonic() > deadline:
            raise StartTimeoutError(f"the gateway at {address} was not ready in time")
        time.sleep(POLL)


def _watch(gateway: subprocess.Popen[bytes], triton: TritonServer) -> None:
    while True:
        _check(gateway, triton)
        time.sleep(POLL)


def _check(gateway: subprocess.Popen[bytes], triton: TritonServer) -> None:
    code = gateway.poll()
    if code is not None:
        raise ServerExitedError(f"the gateway ended with exit code {code}; see its message above")
    if triton.wait(0) is not None:
        raise triton.exit_error()


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
