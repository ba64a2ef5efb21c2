"""What importing the program sets up, and the ports it takes, before anything is served."""

import os
import socket
import subprocess
import sys

import pytest

from gateway.process import ports
from tests.conftest import REPOSITORY, ROOT, free_ports

pytestmark = pytest.mark.slow

THREADS = (
    "import gateway.__main__, gateway.process.start, os; print(len(os.listdir('/proc/self/task')))"
)


def threads(**settings: str) -> int:
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    ran = subprocess.run(
        [sys.executable, "-c", THREADS], cwd=ROOT, env=environment | settings,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return int(ran.stdout)


def test_numpy_has_no_threads_of_its_own() -> None:
    """They would spin after each product, and take the cores from what decodes and encodes."""
    assert threads() == 1


def test_whoever_sets_their_number_is_heeded() -> None:
    assert threads(OPENBLAS_NUM_THREADS="2") == min(2, len(os.sched_getaffinity(0)))


def test_an_address_for_metrics_that_is_not_here_is_named_by_its_setting() -> None:
    http, grpc, metrics = free_ports(3)
    settings = {
        "HTTP_PORT": http, "GRPC_PORT": grpc, "METRICS_PORT": metrics, "METRICS_HOST": "192.0.2.1",
        "MODEL_REPOSITORY": REPOSITORY,
    }  # fmt: skip
    environment = {f"GATEWAY_{name}": str(value) for name, value in settings.items()}
    ran = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"gateway: cannot listen on 192.0.2.1:{metrics}: ")
    assert ran.stderr.endswith("; set GATEWAY_METRICS_HOST\n")


def test_a_port_that_another_program_listens_on_first_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))

        class Late(socket.socket):
            def listen(self, backlog: int = 1) -> None:
                other.listen()
                super().listen(backlog)

        monkeypatch.setattr(socket, "socket", Late)
        with pytest.raises(ports.PortError, match="in use; set GATEWAY_HTTP_PORT"):
            ports.listen(*other.getsockname())
