"""`python -m benchmarks.peers`: compares the service with its alternatives.

Ours, infinity and OpenCLIP in PyTorch behind a plain FastAPI server serve the same architecture,
the peers in FP32, and get the same requests: `POST /v1/embeddings` with texts, or with images as
data URLs. All run at the same time. One at a time is under load; the others idle, and their CPU use
is measured too. In each round every cell (a request and a number of connections) is measured on
each service in turn, starting with another service each round; a short warm-up round goes first. A
ratio is ours over the best peer of the same round and cell.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count, product
from pathlib import Path
from statistics import median

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Check, Label, Row, ratio
from benchmarks.reporting.targets import medians
from benchmarks.systems import peers
from benchmarks.systems.peers import OURS, Service
from benchmarks.systems.published import find
from benchmarks.traffic import loops
from benchmarks.traffic.requests import Request, images, requests

CELLS = (
    ("caption", 1), ("caption", 8), ("caption", 32), ("16 captions", 1), ("16 captions", 8),
    ("image", 1), ("image", 8), ("image", 32), ("8 images", 1), ("8 images", 8),
)  # fmt: skip
WARM_UP = 0.25  # of the seconds of a cell, in the warm-up round
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
    """Ours over the best peer in items/s for each cell: median, minimum and maximum of rounds."""
    rates: dict[tuple[Label, Label], dict[Label, dict[str, float]]] = {}
    for row in rows:
        cell = rates.setdefault((row.labels["kind"], row.labels["concurrency"]), {})
        of_round = cell.setdefault(row.labels[ROUND], {})
        of_round[str(row.labels["system"])] = row.values["per_second"]
    names = dict.fromkeys(str(row.labels["system"]) for row in rows)
    ours = [name for name in names if name.startswith(OURS)]
    made = []
    for own, ((kind, connections), rounds) in product(ours, rates.items()):
        several = [
            ratio(found[own], max(found[name] for name in others))
            for found in rounds.values()
            if (others := found.keys() - ours) and own in found
        ]
        if several:
            values = {"ratio": median(several), "least": min(several), "most": max(several)}
            labels: dict[str, Label] = {"system": own, "of the best peer": kind}
            made.append(Row({**labels, "concurrency": connections}, values))
    return made


def summary(rows: Sequence[Row]) -> list[Row]:
    """The ratios, the medians of the rounds, and all rounds."""
    plain = [Row({k: v for k, v in r.labels.items() if k != ROUND}, r.values) for r in rows]
    return [*ratios(rows), *medians(plain), *rows]


def checks(rows: Sequence[Row]) -> list[Check]:
    """Whether the services that are not under load leave the cores alone."""
    idle = max(row.values["idle_cores"] for row in rows if ROUND in row.labels)
    name = "cores that idle services took, the most"
    return [Check(name, idle, MOST_IDLE_CORES, at_least=False)]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return the exit code: 2 where requests failed."""
    made = program.measuring("peers", __doc__, seconds=8.0, repeats=5, env=True)
    made.add_argument(
        "--variant", action="append", default=[], metavar="ID",
        help="another precision of ours to measure as well; repeatable",
    )  # fmt: skip
    made.add_argument(
        "--peers-python", type=Path, default=Path(sys.executable), metavar="FILE",
        help="a Python with infinity and open_clip, such as .venv/peers/bin/python",
    )  # fmt: skip
    given = program.parsed(made, arguments)
    versions = peers.versions(given.peers_python)
    cells = [cell for cell in CELLS if cell[1] == 1] if given.quick else CELLS
    manifests = [find(given.repository, model) for model in (given.model, *given.variant)]
    with ExitStack() as stack:
        started = peers.start(given.repository, manifests, given.peers_python, given.env, stack)
        measured = measure(started, cells, given.seconds, given.repeats)
        rows = record("peers", manifests[0], given, measured, summary, checks, versions)
    return 2 if any(row.values["errors"] for row in rows) else 0


def _cell(
    services: Mapping[str, Service], name: str, kind: str, connections: int, seconds: float,
    seed: int,
) -> dict[str, float]:  # fmt: skip
    service = services[name]
    others = [other for other in services.values() if other is not service]
    stream = _requests(kind, service.target.model, seed)
    idle, used, begun = _cpu(others), service.cpu_seconds(), time.perf_counter()
    measured = loops.measure(service.target, stream, connections, seconds, warm_up=0.0)
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


if __name__ == "__main__":
    sys.exit(program.run(main))
