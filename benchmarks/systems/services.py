"""The programs under test, in separate processes on free ports, stopped at the end."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.program import PREFIX
from benchmarks.traffic.connection import Target
from benchmarks.traffic.errors import BenchmarkError

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
START_TIMEOUT = 600.0  # seconds
STOP_TIMEOUT = 60.0  # seconds
POLL = 0.1  # seconds
MODEL = "torch"  # model name for the servers on PyTorch
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
READY = re.compile(r"Triton is ready: gRPC ([^,]+), metrics (http://[^;]+);")


@dataclass(frozen=True, slots=True)
class Triton:
    """A running Triton."""

    pid: int  # of its launcher
    grpc: str  # host:port
    metrics: str  # URL
    secret: Path  # file with what loading models and reading statistics requires


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, or another service with its REST API."""

    pid: int
    target: Target


@contextlib.contextmanager
def triton(repository: Path, model: str) -> Iterator[Triton]:
    """A real Triton that serves one model of a repository, until the block ends.

    Raises:
        BenchmarkError: It did not start.
    """
    ports = [word for kind in ("grpc", "metrics") for word in (f"--{kind}-port", "0")]
    options = ["--model-repository", str(repository), "--models", model, "--quiet", *ports]
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        words = ["-m", "server", *options, "--secret-file", str(secret)]
        with _program(words, os.environ, stdout=subprocess.PIPE) as (process, errors):
            for line in process.stdout or ():
                if found := READY.search(line):
                    yield Triton(process.pid, found[1], found[2], secret)
                    return
            raise _failed(f"{model}: Triton", process, errors)


@contextlib.contextmanager
def gateway(
    repository: Path,
    model: str,
    triton: Triton,
    settings: Mapping[str, str] | None = None,
    launcher: Sequence[str] = ("-m", "gateway"),
) -> Iterator[Gateway]:
    """A ready gateway in front of a Triton; `settings` are further `GATEWAY_` variables.

    Raises:
        BenchmarkError: It did not start, or was never ready.
    """
    http, rpc = free_port(), free_port()
    own = {
        "GATEWAY_HTTP_PORT": str(http),
        "GATEWAY_GRPC_PORT": str(rpc),
        "GATEWAY_TRITON_ADDRESS": triton.grpc,
        "GATEWAY_TRITON_SECRET_FILE": str(triton.secret),
        "GATEWAY_MODEL_REPOSITORY": str(repository),
        "GATEWAY_MODELS": json.dumps([model]),
        "GATEWAY_TRITON_CALLS": "1",  # as in `make run`
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    environment |= own | dict(settings or {})
    with _program(launcher, environment) as (process, errors):
        _wait(f"http://{HOST}:{http}/readyz", "the gateway", process, errors)
        yield Gateway(process.pid, Target(f"{HOST}:{http}", f"{HOST}:{rpc}", model))


@contextlib.contextmanager
def serving(
    repository: Path, model: str, settings: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """A Triton and a gateway in front of it; see `triton` and `gateway`."""
    with (
        triton(repository, model) as started,
        gateway(repository, model, started, settings) as served,
    ):
        yield served


@contextlib.contextmanager
def on_pytorch(python: Path, words: Sequence[str], ready: str, name: str) -> Iterator[Gateway]:
    """A server on PyTorch with our REST API, run by the Python of its environment.

    Args:
        python: Of its environment.
        words: Its command line without the port.
        ready: Path that answers with 200 when the server is ready.
        name: For messages.

    Raises:
        BenchmarkError: It did not start.
    """
    port = free_port()
    # Spinning OpenMP threads make PyTorch many times slower if another process uses a core.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **OFFLINE, **os.environ}
    with _program([*words, "--port", str(port)], environment, python=python) as (process, errors):
        _wait(f"http://{HOST}:{port}/{ready}", name, process, errors)
        yield Gateway(process.pid, Target(f"{HOST}:{port}", "", MODEL))


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _program(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    python: Path | None = None,
    stdout: int | None = None,
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A running Python program of this repository, and the file with its standard error."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(  # noqa: S603 (the project's own programs)
            [str(python or sys.executable), *words],
            cwd=ROOT,
            env=dict(environment),
            stdout=stdout or errors,
            stderr=errors,
            text=True,
        )
        try:
            yield process, errors
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _wait(url: str, name: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(URLError, OSError), urlopen(url, timeout=10):  # noqa: S310 (ours)
            return
        time.sleep(POLL)
    raise _failed(name, process, errors)


def _failed(name: str, process: subprocess.Popen[str], errors: IO[str]) -> BenchmarkError:
    process.terminate()
    process.wait(STOP_TIMEOUT)
    errors.seek(0)
    return BenchmarkError(f"{name} did not start: {errors.read().strip()[-2000:]}")
