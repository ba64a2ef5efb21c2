"""`python -m benchmarks.load`: runs headless Locust at several concurrencies, and prints one table.

Each kind of user runs alone at each concurrency, against a service that this program starts or one
that is already running (`--url`). Locust's own CSV and HTML files are kept too.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import ROOT, Label, Row
from benchmarks.systems import services
from benchmarks.systems.published import find
from benchmarks.traffic.errors import BenchmarkError

USERS = ("RestText", "RestImage", "ZeroShot", "Mixed", "GrpcText", "GrpcImage", "BulkStream")
CONCURRENCY = (1, 8, 32, 128)
SHAPES = ("ramp", "spike")
LOCUSTFILE, SHAPEFILE = "benchmarks/locustfile.py", "benchmarks/traffic/shapes.py"
SPAWNING = 1  # second, in which the users start; not counted (--reset-stats)
STOPPING = 60  # seconds that Locust may take beyond the run time


def run(
    url: str, rpc: str, model: str, user: str, concurrency: int, seconds: float, output: Path,
    shape: str | None = None, seed: int = 0,
) -> Row:  # fmt: skip
    """One run of Locust.

    Args:
        url: Of the REST API.
        rpc: host:port of the gRPC API.
        model: Id of the model, or empty.
        user: One of `USERS`.
        concurrency: Number of users; with a shape, the largest.
        seconds: Duration; Locust accepts only whole seconds.
        output: Folder for Locust's files.
        shape: One of `SHAPES`, or None for a constant load.
        seed: Seed of the captions.

    Raises:
        BenchmarkError: Locust failed, or sent nothing.
    """
    output.mkdir(parents=True, exist_ok=True)
    prefix = output / "-".join(filter(None, [user, str(concurrency), shape]))
    files = f"{LOCUSTFILE},{SHAPEFILE}" if shape else LOCUSTFILE
    command = [
        sys.executable, "-m", "locust", "-f", files, "--headless", "--only-summary",
        "--host", url, "--grpc-address", rpc, "--clip-model", model, "--caption-seed", str(seed),
        "--users", str(concurrency), "--spawn-rate", str(concurrency),
        "--run-time", str(math.ceil(seconds) + SPAWNING),
        "--stop-timeout", "30", "--reset-stats", "--exit-code-on-error", "0",
        "--totals", f"{prefix.resolve()}.json", "--csv", str(prefix.resolve()),
        "--html", f"{prefix.resolve()}.html", *(["--shape", shape] if shape else []), user,
    ]  # fmt: skip
    # Locust looks for modules in the locustfile's folder.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(  # noqa: S603 (Locust on our own file)
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True,
            text=True, timeout=seconds + STOPPING, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"Locust with {user} did not end in {error.timeout:g} s") from error
    if done.returncode:
        raise BenchmarkError(f"Locust with {user} failed: {done.stderr.strip()[-2000:]}")
    labels: dict[str, Label] = {"user": user, "concurrency": concurrency}
    if shape:
        labels["shape"] = shape
    return Row(labels, read(Path(f"{prefix}.json")))


def read(path: Path) -> dict[str, float]:
    """Read the totals that the locustfile wrote.

    Raises:
        BenchmarkError: There are no totals.
    """
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    if not found.get("requests"):
        raise BenchmarkError(f"{path}: Locust sent nothing")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return the exit code: 2 if requests failed."""
    given = program.parsed(_parser(), arguments)
    if given.quick:
        given.concurrency = given.concurrency[:2]
    manifest, url, rpc, model = None, given.url, given.grpc, given.model or ""
    with ExitStack() as stack:
        if not url:
            manifest = find(given.repository, given.model)
            model = manifest["id"]
            target = stack.enter_context(services.serving(given.repository, model)).target
            url, rpc = f"http://{target.http}", target.grpc
        pairs = itertools.product(given.users, given.concurrency)
        rows = record("load", manifest, given, (
            run(url, rpc, model, *pair, given.seconds, given.output, given.shape, seed)
            for seed, pair in enumerate(pairs, start=1)
        ))  # fmt: skip
    return 2 if any(row.values.get("errors") for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    made = program.measuring("load", __doc__, seconds=20.0, output=program.OUTPUT / "load")
    add = made.add_argument
    add("--url", help="measure this running service instead, such as http://host:8080")
    add("--grpc", default="127.0.0.1:8081", metavar="HOST:PORT", help="and its gRPC API")
    add("--users", nargs="+", choices=USERS, default=USERS, metavar="USER",
        help=f"kinds of user (default: all of {', '.join(USERS)})")  # fmt: skip
    add("--concurrency", nargs="+", type=int, default=CONCURRENCY, metavar="N",
        help="numbers of concurrent users (default: 1 8 32 128)")  # fmt: skip
    add("--shape", choices=SHAPES, help="vary the load during the run")
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
