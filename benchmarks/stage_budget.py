"""`python -m benchmarks.stage_budget`: CPU milliseconds of the gateway for each request.

Encoders that do no work replace the real ones (`benchmarks.systems.null_encoder`), so that the
machine has time for the gateway, and only the gateway's own work is measured.

1. Totals: user and kernel time of the gateway's processes from /proc, before and after a number of
   requests, divided by that number. The gateway runs unmodified.
2. Stages: the same load on a gateway that runs under `benchmarks.systems.sampler`, which attributes
  the main thread's CPU time to code, and counts other threads separately. A sample belongs to the
  stage of its innermost frame that has one. The shares are then applied to the totals, so that the
  cost of the sampler itself does not count.
3. Totals once more with several worker processes.
4. Decoding and resizing alone, on all cores at once, in this program: the minimal cost of an image.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Row
from benchmarks.reporting.stages import ALONE, checks, functions, hottest, shares
from benchmarks.systems import decoding, processes, services
from benchmarks.systems.null_encoder import write_repository
from benchmarks.systems.published import Manifest, find
from benchmarks.traffic import loops, requests
from benchmarks.traffic.errors import BenchmarkError

KINDS = ("rest-text", "grpc-text", "rest-image", "rest-image-base64", "grpc-image")
WORKERS = 2
WORKER_KINDS = ("rest-text", "grpc-text")  # used to check that more workers cost no more
CALLS = "2"  # the gateway's default: as with a GPU, two calls may be in flight
FUNCTIONS = 15  # hottest functions kept for each kind
CONCURRENCY = 8
SEEDS = 1_000  # between kinds: a repeated caption is answered from the cache
WAIT = 30.0  # seconds, for the sampler to write


def measure(given: argparse.Namespace, manifest: Manifest) -> Iterator[Row]:
    """Totals and stages of every kind.

    Raises:
        BenchmarkError: A program did not start, or requests failed.
    """
    kinds, seconds, repeats = given.kinds, given.seconds, given.repeats
    yield Row({"kind": ALONE}, {"cpu_ms": decoding.cpu_ms(manifest, seconds)})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        null = folder / "repository"
        write_repository(given.repository, manifest, null)
        triton = stack.enter_context(services.triton(null, manifest["id"]))
        start = (null, manifest["id"], triton)
        settings = {"GATEWAY_TRITON_CALLS": CALLS, **given.env}
        with services.gateway(*start, settings) as served:
            whole = medians_ms(served, kinds, seconds, repeats)
        for kind in kinds:
            yield Row({"kind": kind}, {"cpu_ms": whole[kind]})
        file = folder / "profile.json"
        launcher = ("-m", "benchmarks.systems.sampler", str(file), "gateway")
        with services.gateway(*start, settings, launcher) as served:
            for kind in kinds:
                yield from _stages(served, kind, seconds, file, whole[kind])
        several = {**settings, "GATEWAY_WORKERS": str(WORKERS)}
        with services.gateway(*start, several) as served:
            both = [kind for kind in WORKER_KINDS if kind in kinds]
            for kind, cost in medians_ms(served, both, seconds, repeats, WORKERS).items():
                yield Row({"kind": kind, "workers": WORKERS}, {"cpu_ms": cost})


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    made = program.measuring("stage_budget", __doc__, seconds=5.0, repeats=3, env=True)
    add = made.add_argument
    add("--kinds", nargs="+", choices=requests.OFFERED, default=KINDS, metavar="KIND",
        help=f"of {', '.join(requests.OFFERED)} (default: {' '.join(KINDS)})")  # fmt: skip
    add("--functions", action="store_true", help="also print the hottest functions")
    given = program.parsed(made, arguments)
    manifest = find(given.repository, given.model)
    rows = record("stage_budget", manifest, given, measure(given, manifest), checks=checks)
    print(functions(rows) if given.functions else "")
    return 0


def medians_ms(
    served: services.Gateway, kinds: Sequence[str], seconds: float, repeats: int, workers: int = 1
) -> dict[str, float]:
    """Median CPU milliseconds per request of each kind, of all the gateway's processes.

    The kinds take turns, so that they stay comparable if the machine's speed changes.
    """
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for seed in range(repeats):
        for kind, taken in found.items():
            taken.append(_cpu_ms(served, kind, seconds, seed, workers))
    return {kind: median(taken) for kind, taken in found.items()}


def profiled(served: services.Gateway, kind: str, seconds: float, file: Path) -> dict[str, Any]:
    """The profile of a load, from a gateway that runs under `benchmarks.systems.sampler`.

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
    """Send requests, and return their number; concurrency is the same for each worker."""
    load = CONCURRENCY * workers
    seed += SEEDS * list(requests.KINDS).index(kind)
    stream = requests.requests(kind, served.target.model, seed)
    measured = loops.measure(served.target, stream, load, seconds, warm_up=0.0)
    if measured.errors:
        raise BenchmarkError(f"{kind}: {measured.errors.most_common(1)[0][0]}")
    return len(measured.latencies)


def _stages(
    served: services.Gateway, kind: str, seconds: float, file: Path, whole: float
) -> Iterator[Row]:
    profile = profiled(served, kind, seconds, file)
    for name, share in shares(profile).items():
        yield Row({"kind": kind, "stage": name}, {"cpu_ms": whole * share, "share": share})
    for name, share in hottest(profile, FUNCTIONS):
        yield Row({"kind": kind, "function": name}, {"share_of_main_thread": share})


if __name__ == "__main__":
    sys.exit(program.run(main))
