"""CPU time of a running gateway for each request, and where it goes."""

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.systems import processes, services
from benchmarks.traffic import loops
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.requests import KINDS

CONCURRENCY = 8
SEEDS = 1_000  # between kinds: a caption that comes again is answered from the cache
WAIT = 30.0  # seconds, for the sampler to write


def medians_ms(
    served: services.Gateway, kinds: Sequence[str], seconds: float, repeats: int, workers: int = 1
) -> dict[str, float]:
    """CPU milliseconds of all its processes for each request of a kind: the medians.

    The kinds take turns, so that they can be compared where the machine's speed changes.
    """
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(repeats):
        for kind, taken in found.items():
            taken.append(_cpu_ms(served, kind, seconds, seed, workers))
    return {kind: median(taken) for kind, taken in found.items()}


def profiled(served: services.Gateway, kind: str, seconds: float, file: Path) -> dict[str, Any]:
    """The profile of a load; the gateway runs under `benchmarks.systems.sampler`, which writes it.

    Raises:
        BenchmarkError: It wrote nothing, or requests failed.
    """
    _load(served, kind, min(1.0, seconds), 200)
    file.unlink(missing_ok=True)
    os.kill(served.pid, signal.SIGUSR1)
    _load(served, kind, seconds, 201)
    os.kill(served.pid, signal.SIGUSR2)
    deadline = time.monotonic() + WAIT
    while not file.exists():
        if time.monotonic() > deadline:
            raise BenchmarkError("the gateway under the sampler wrote no profile")
        time.sleep(0.05)
        _load(served, kind, 0.05, 202)  # the signal is handled when Python code runs
    profile: dict[str, Any] = json.loads(file.read_text())
    return profile


def _cpu_ms(served: services.Gateway, kind: str, seconds: float, seed: int, workers: int) -> float:
    _load(served, kind, min(1.0, seconds), 100 + seed, workers)
    before = processes.tree_cpu_seconds(served.pid)
    sent = _load(served, kind, seconds, seed, workers)
    return (processes.tree_cpu_seconds(served.pid) - before) / sent * 1000


def _load(served: services.Gateway, kind: str, seconds: float, seed: int, workers: int = 1) -> int:
    """Sends requests, and returns their number; each worker gets as many at a time as one alone."""
    load = CONCURRENCY * workers
    seed += SEEDS * list(KINDS).index(kind)
    measured = loops.measure(served.target, kind, load, seconds, seed, warm_up=0.0)
    if measured.errors:
        raise BenchmarkError(f"{kind}: {measured.errors.most_common(1)[0][0]}")
    return len(measured.latencies)
