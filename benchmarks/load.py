"""`python -m benchmarks.load`: Locust, headless, at several concurrencies; one readable table.

Each kind of user runs alone at each concurrency against a service that is started for it, or one
that runs already (`--url`). Locust's own CSV and HTML files are kept too.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import program
from benchmarks.reporting.results import ROOT, SUFFIX, Label, Row, collect
from benchmarks.reporting.tables import markdown
from benchmarks.systems import services
from benchmarks.systems.published import Manifest, find
from benchmarks.traffic.errors import BenchmarkError

USERS = ("RestText", "RestImage", "ZeroShot", "Mixed", "GrpcText", "GrpcImage", "BulkStream")
CONCURRENCY = (1, 8, 32, 128)
SHAPES = ("ramp", "spike")
LOCUSTFILE, SHAPEFILE = "benchmarks/locustfile.py", "benchmarks/traffic/shapes.py"
COLUMNS = ("per_second", "p50_ms", "p95_ms", "p99_ms", "requests", "errors")
SPAWNING = 1  # second, in which the users start; it counts for nothing (--reset-stats)
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
        concurrency: Users at a time; with a shape, the most.
        seconds: How long; Locust takes whole ones only.
        output: Folder for Locust's files.
        shape: One of `SHAPES`, or None for a load that stays the same.
        seed: Another one draws other captions.

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
    environment = os.environ | {"PYTHONPATH": _path()}
    done = subprocess.run(  # noqa: S603 (Locust on our own file)
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + STOPPING,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"Locust with {user} failed: {done.stderr.strip()[-2000:]}")
    labels: dict[str, Label] = {"user": user, "concurrency": concurrency}
    if shape:
        labels["shape"] = shape
    return Row(labels, read(Path(f"{prefix}.json")))


def read(path: Path) -> dict[str, float]:
    """The figures of all requests together, as our locustfile writes them.

    Raises:
        BenchmarkError: There are none.
    """
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    if not found.get("requests"):
        raise BenchmarkError(f"{path}: Locust has sent nothing")
    return found


def table(rows: Sequence[Row]) -> str:
    """The figures as Markdown; a stream of many captions is one request."""
    lines = [
        [row.labels["user"], row.labels["concurrency"], row.labels.get("shape", ""),
         *(row.values[name] for name in COLUMNS[:4]),
         int(row.values["requests"]), int(row.values["errors"])]
        for row in rows
    ]  # fmt: skip
    return markdown(["user", "at a time", "shape", "requests/s", *COLUMNS[1:]], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit code: 2 where requests failed."""
    given = program.shortened(_parser().parse_args(arguments))
    if given.quick:
        given.concurrency = given.concurrency[:2]
    rows: list[Row] = []
    with ExitStack() as stack:
        service = _service(given, stack)
        for row in _runs(service, given):
            rows.append(row)
            _write(rows, service.manifest, given)
    print(f"\n{table(rows)}\n\nWritten to {given.output}: load.md, and CSV and HTML of each run")
    return 2 if any(row.values.get("errors") for row in rows) else 0


@dataclass(frozen=True, slots=True)
class Service:
    """What is measured."""

    manifest: Manifest | None  # None: a service that ran already
    url: str
    rpc: str  # host:port of the gRPC API
    model: str  # its id, or empty


def _runs(service: Service, given: argparse.Namespace) -> Iterator[Row]:
    pairs = itertools.product(given.users, given.concurrency)
    for seed, (user, concurrency) in enumerate(pairs, start=1):
        row = run(service.url, service.rpc, service.model, user, concurrency, given.seconds,
                  given.output, given.shape, seed)  # fmt: skip
        print(f"{user}, {concurrency}: {row.values['per_second']:.1f}/s", flush=True)
        yield row


def _service(given: argparse.Namespace, stack: ExitStack) -> Service:
    if given.url:
        return Service(None, given.url, given.grpc, given.model or "")
    manifest = find(given.repository, given.model)
    model = manifest["id"]
    served = stack.enter_context(services.serving(given.repository, model))
    return Service(manifest, f"http://{served.target.http}", served.target.grpc, model)


def _write(rows: Sequence[Row], manifest: Manifest | None, given: argparse.Namespace) -> None:
    collect("load", manifest, vars(given), rows).write(given.output / f"load{SUFFIX}")
    (given.output / "load.md").write_text(table(rows) + "\n")


def _path() -> str:
    """`PYTHONPATH` for Locust, which looks for modules in the locustfile's folder."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _parser() -> argparse.ArgumentParser:
    made = program.parser("load", __doc__)
    program.add_model(made)
    add = made.add_argument
    add("--url", help="measure the service that runs here instead, such as http://host:8080")
    add("--grpc", default="127.0.0.1:8081", metavar="HOST:PORT", help="and its gRPC API")
    add("--users", nargs="+", choices=USERS, default=USERS, metavar="USER",
        help=f"kinds of user (default: all of {', '.join(USERS)})")  # fmt: skip
    add("--concurrency", nargs="+", type=int, default=CONCURRENCY, metavar="N",
        help="users at a time (default: 1 8 32 128)")  # fmt: skip
    add("--shape", choices=SHAPES, help="let the load change over the run")
    program.add_length(made, seconds=20.0)
    program.add_output(made, program.OUTPUT / "load")
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
