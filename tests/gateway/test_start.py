"""What importing the program sets up, before anything is served."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

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
