"""`python -m benchmarks.peers`: our service beside those that users run today.

Ours, infinity and OpenCLIP in PyTorch behind a plain FastAPI server serve the same architecture,
the peers in FP32, and are sent the very same requests: `POST /v1/embeddings` with texts, or with
images as data URLs. All run at the same time. One at a time is under load; the others idle, and the
CPU that they take meanwhile is measured too. In each round every cell (a request and a number of
connections) is measured on each service in turn, another one first each round; a short round that
does not count goes before. A ratio is ours over the best peer of the same round and cell.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from statistics import median

from benchmarks import program
from benchmarks.reporting.page import tables
from benchmarks.reporting.results import SUFFIX, Check, Label, Results, Row, collect, ratio
from benchmarks.reporting.targets import medians
from benchmarks.systems import peers, services
from benchmarks.systems.peers import OURS, Service
from benchmarks.systems.published import find
from benchmarks.traffic import loops
from benchmarks.traffic.requests import Request, images, requests

CELLS = (
    ("caption", 1), ("caption", 8), ("caption", 32), ("16 captions", 1), ("16 captions", 8),
    ("image", 1), ("image", 8), ("image", 32), ("8 images", 1), ("8 images", 8),
)  # fmt: skip
WARM_UP = 0.25  # of the seconds of a cell, in the round that does not count
MOST_IDLE_CORES = 0.1  # of all idle services together
ROUND = "round"


def measure(
    services: Mapping[str, Service], cells: Sequence[tuple[str, int]], seconds: float, rounds: int
) -> Iterator[Row]:
    """A row for each round, cell and service."""
    seeds, names = count(), list(services)
    for number in range(rounds + 1):
        order = [*names[number % len(names) :], *names[: number % len(names)]]
        for kind, connections in cells:
            for name in order:
                length = seconds if number else seconds * WARM_UP
                values = _cell(services, name, kind, connections, length, next(seeds))
                labels: dict[str, Label] = {"system": name, "kind": kind}
                labels |= {"concurrency": connections, ROUND: number}
                if number:
                    yield Row(labels, values)


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Of each cell, ours over the best peer in items/s: median, least and most of the rounds."""
    made = []
    ours = dict.fromkeys(s for row in rows if (s := str(row.labels["system"])).startswith(OURS))
    for own, (kind, connections) in product(ours, CELLS):
        found: dict[Label, dict[str, float]] = {}
        for row in rows:
            if (row.labels["kind"], row.labels["concurrency"]) == (kind, connections):
                of_round = found.setdefault(row.labels[ROUND], {})
                of_round[str(row.labels["system"])] = row.values["per_second"]
        several = [
            ratio(rates[own], max(rates[name] for name in others))
            for rates in found.values()
            if (others := rates.keys() - ours) and own in rates
        ]
        if several:
            values = {"ratio": median(several), "least": min(several), "most": max(several)}
            labels: dict[str, Label] = {"system": own, "of the best peer": kind}
            labels["concurrency"] = connections
            made.append(Row(labels, values))
    return made


def summary(rows: Sequence[Row], given: argparse.Namespace, versions: dict[str, str]) -> Results:
    """The medians of the rounds, the ratios, and each round as it was."""
    plain = [Row({k: v for k, v in r.labels.items() if k != ROUND}, r.values) for r in rows]
    idle = max((row.values["idle_cores"] for row in rows), default=float("nan"))
    check = Check("cores that idle services took, the most", idle, MOST_IDLE_CORES, False)
    manifest = find(given.repository, given.model)
    every = [*ratios(rows), *medians(plain), *rows]
    made = collect("peers", manifest, vars(given), every, [check])
    return replace(made, versions=made.versions | versions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns the exit code: 2 where requests failed."""
    given = program.shortened(_parser().parse_args(arguments))
    given.repository = given.repository.resolve()
    settings = services.settings(given.env)
    versions = peers.versions(given.peers_python)
    cells = [cell for cell in CELLS if cell[1] == 1] if given.quick else CELLS
    rows: list[Row] = []
    with ExitStack() as stack:
        models = [given.model, *given.variant]
        manifests = [find(given.repository, model) for model in models]
        started = peers.start(given.repository, manifests, given.peers_python, settings, stack)
        for row in measure(started, cells, given.seconds, given.repeats):
            rows.append(row)
            print(row, flush=True)
            results = summary(rows, given, versions)
            results.write(given.output / f"peers{SUFFIX}")
            (given.output / "peers.md").write_text(tables(results) + "\n")
    print(f"\n{tables(results)}\n\nWritten to {given.output}: peers{SUFFIX}, peers.md")
    return 2 if any(row.values["errors"] for row in rows) else 0


def _cell(
    services: Mapping[str, Service], name: str, kind: str, connections: int, seconds: float,
    seed: int,
) -> dict[str, float]:  # fmt: skip
    service = services[name]
    others = [other for other in services.values() if other is not service]
    stream = _requests(kind, service.target.model, seed)
    idle, used, begun = _cpu(others), service.cpu_seconds(), time.perf_counter()
    measured = loops.measure_stream(service.target, stream, connections, seconds, warm_up=0.0)
    used, idle = service.cpu_seconds() - used, _cpu(others) - idle
    items = len(measured.latencies) * next(_requests(kind, "", seed)).items
    return measured.values() | {
        "cpu_ms": ratio(used * 1000, items),
        "memory_mb": service.memory_mb(),
        "idle_cores": idle / (time.perf_counter() - begun),
    }


def _cpu(services: Sequence[Service]) -> float:
    return sum(service.cpu_seconds() for service in services)


def _requests(kind: str, model: str, seed: int) -> Iterator[Request]:
    if kind.endswith(("image", "images")):
        return images(model, 1 if kind == "image" else 8, seed)
    return requests("rest-text" if kind == "caption" else "rest-texts", model, seed)


def _parser() -> argparse.ArgumentParser:
    made = program.parser("peers", __doc__)
    program.add_model(made)
    made.add_argument(
        "--variant", action="append", default=[], metavar="ID",
        help="another precision of ours, measured beside; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--peers-python", type=Path, default=Path(sys.executable), metavar="FILE",
        help="a Python with infinity and open_clip, such as .venv/peers/bin/python",
    )  # fmt: skip
    services.add_env(made)
    program.add_length(made, seconds=8.0, repeats=5)
    program.add_output(made)
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
