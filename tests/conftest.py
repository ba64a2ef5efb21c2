"""The real service for tests: Triton on the committed demo model, and gateways before it."""

import contextlib
import gc
import logging
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.config import ServerConfig
from server.launcher import TritonServer
from tests.forking import Fork

# Before PyTorch is imported: its threads would spin while they wait, and take the cores that other
# tests work on.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parent.parent
REPOSITORY = ROOT / "model_repository"
SAMPLES = ROOT / "docs" / "samples"

COMMAND = (sys.executable, "-m", "gateway")
START_S = 60.0
STOP_S = 60.0  # over what a gateway allows itself
LISTENED_ON = 10_000  # ports below those that the kernel gives
PRIVILEGED = 1_024
# For clients of plain HTTP: by default, each reads all certificates of the system.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class GatewayClient(httpx.Client):
    """A client of the REST API that knows where the gRPC API is, and whose they are."""

    grpc_address: str
    process: int  # id of the gateway's, or of its workers' parent


GatewayProcess = subprocess.Popen[bytes] | Fork
GatewayFactory = Callable[..., AbstractContextManager[GatewayClient]]


def pytest_configure() -> None:
    """Heeds SIGINT: a shell starts what runs in the background deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: tests wait for services, and each for its own."""
    return len(os.sched_getaffinity(0)) + 1


# Folders whose tests export models, drive a browser, start whole stacks, or are not of the service.
SLOW_FOLDERS = {
    "export", "playground", "deploy", "benchmarks", "demo", "examples", "gpu_check", "robustness",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out: exports, tools, and gateways of a test's own."""
    for item in items:
        gateways = "start_gateway" in getattr(item, "fixturenames", ())
        if gateways or item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


def pytest_collection() -> None:
    """Search no garbage while nearly nothing becomes any."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of garbage collections until the end."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let extension modules free at exit what they would report as leaked."""
    gc.unfreeze()


# What is not on every machine, by a word of the reason for which tests skip without it.
PACKAGES = {"Chromium": "chromium", "prom": "prometheus", "Compose": "docker-compose"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was skipped for want of a package, and the command that brings it."""
    skipped = [str(each.longrepr) for each in terminalreporter.stats.get("skipped", ())]
    missing = {
        name: count
        for word, name in PACKAGES.items()
        if (count := sum(word in reason for reason in skipped))
    }
    if missing:
        counts = ", ".join(f"{count} for want of {name}" for name, count in missing.items())
        terminalreporter.write_line(
            f"Skipped: {counts}. On Debian and Ubuntu: apt-get install {' '.join(missing)}"
        )
    for what, target in (("calls of other clients", "clients"), ("examples", "examples")):
        if count := sum(f"make test-{target}" in reason for reason in skipped):
            terminalreporter.write_line(f"Skipped: {count} {what}: make test-{target}")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undoes what a command does that runs in the process of the tests."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def triton() -> Iterator[TritonServer]:
    """A real Triton that serves the demo model on free ports."""
    config = ServerConfig(REPOSITORY, grpc_port=0, metrics_port=0)
    with TritonServer(config) as server:
        yield server


@pytest.fixture(scope="session")
def start_gateway() -> GatewayFactory:
    """Start a gateway process with these settings; a client of it, until the block ends."""
    return run_gateway


@pytest.fixture(scope="session")
def api(triton: TritonServer) -> Iterator[GatewayClient]:
    """A client of a gateway with default settings, ready."""
    with run_gateway(Outside(command=COMMAND), triton_address=triton.addresses.grpc) as client:
        assert client.get("/readyz").status_code == httpx.codes.OK
        yield client


@dataclass(frozen=True)
class Outside:
    """A gateway's log, TLS, command line and exit code."""

    log: Path | None = None  # takes what it writes to standard error
    tls: ssl.SSLContext | None = None  # it is called by https
    command: Sequence[str] | None = None  # None: a fork, which is the quicker start
    code: int = 0  # it must end with


@contextlib.contextmanager
def run_gateway(outside: Outside = Outside(), /, **settings: object) -> Iterator[GatewayClient]:
    """A live gateway process, stopped and seen to end when the block does."""
    port, grpc_port = free_ports(2)
    own = {"http_port": port, "grpc_port": grpc_port, "model_repository": REPOSITORY}
    # Golden vectors in between would stand in the counts that tests read from Triton.
    settings = own | {"triton_verify_s": 3600} | settings
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_")}
    environment |= {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    process, scheme = _started(outside, environment), "https" if outside.tls else "http"
    try:
        with GatewayClient(
            base_url=f"{scheme}://127.0.0.1:{port}", timeout=60, verify=outside.tls or PLAIN
        ) as client:
            client.grpc_address = f"127.0.0.1:{settings['grpc_port']}"
            client.process = process.pid
            wait_live(client, process)
            yield client
        process.terminate()
        assert process.wait(STOP_S) == outside.code
    finally:
        process.kill()
        process.wait(STOP_S)


def _started(outside: Outside, environment: dict[str, str]) -> GatewayProcess:
    with outside.log.open("ab") if outside.log else contextlib.nullcontext() as stderr:
        if outside.command is None:
            errors = stderr.fileno() if stderr else 2
            return Fork("gateway", environment=environment, streams=(0, 1, errors))
        return subprocess.Popen(outside.command, cwd=ROOT, env=environment, stderr=stderr)


def interruptible(module: str) -> list[str]:
    """How to run a module that takes notice of Ctrl-C even where this process does not.

    Not by `preexec_fn`: it runs between fork and exec, where gRPC's threads have hung it.
    """
    code = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code]


@contextlib.contextmanager
def killed_after(seconds: float, process: subprocess.Popen[Any]) -> Iterator[None]:
    """Around what waits for a process to write or to end: it is killed where that takes so long."""
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()


def wait_live(client: httpx.Client, process: GatewayProcess) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the gateway ended before it was live"
        with contextlib.suppress(httpx.TransportError):
            if client.get("/livez").status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    pytest.fail("the gateway was not live in time")


def free_port() -> int:
    """See `free_ports`."""
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens.

    They are below those that the kernel gives to whoever connects or asks for any port, which
    could be taken before the process that they are for has started.
    """
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = max(given, PRIVILEGED + LISTENED_ON)
    ports = list(range(end - LISTENED_ON, end))
    random.Random(os.urandom(16)).shuffle(ports)
    found: list[int] = []
    for port in ports:
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))  # noqa: S104 - nobody may listen on any address
            found.append(port)
    return found
