"""`python -m benchmarks.openloop`: latency against offered load, with the knee marked.

First a closed loop finds the capacity. Then loads that are fractions of it are offered, each at
a constant rate with Poisson arrivals, and latency counts from when a request was due. Writes a
JSON file and a plot, and prints a table. The client's own lateness has a column too:
where it is not far below them, use more client processes or a machine of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks import program
from benchmarks.reporting import plots
from benchmarks.reporting.knee import carried, knee
from benchmarks.reporting.results import SUFFIX, Check, Label, Row, collect
from benchmarks.reporting.tables import Cell, markdown
from benchmarks.reporting.targets import CHECKED, tail
from benchmarks.systems import services
from benchmarks.systems.published import Manifest, find
from benchmarks.traffic import loops
from benchmarks.traffic.arrivals import offer
from benchmarks.traffic.connection import Target
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.requests import KINDS, NEEDS_LABEL_SET

FRACTIONS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
CAPACITY_CONCURRENCY = 32
APART = 100_000  # between seeds, so that no caption comes twice and is known
OFFERED = [kind for kind in KINDS if kind not in NEEDS_LABEL_SET]
COLUMNS = ("offered_per_second", "per_second", "p50_ms", "p95_ms", "p99_ms", "errors",
           "client_late_p99_ms")  # fmt: skip


def sweep(
    target: Target,
    kind: str,
    seconds: float,
    fractions: Sequence[float] = FRACTIONS,
    processes: int = 1,
    capacity: float | None = None,
    seed: int = 0,
) -> list[Row]:
    """One row for each offered load; `capacity` is in requests per second, or found first."""
    if capacity is None:
        found = loops.measure(target, kind, CAPACITY_CONCURRENCY, seconds, seed + APART)
        items = next(KINDS[kind](target.model, 0)).items
        capacity = found.per_second / items
        if not capacity:
            reasons = "; ".join(found.errors) or "nothing was answered"
            raise BenchmarkError(f"{kind}: the capacity cannot be found: {reasons}")
    rows = []
    for number, fraction in enumerate(fractions, start=seed):
        rate = capacity * fraction
        outcome = offer(target, kind, rate, seconds, processes, number)
        labels: dict[str, Label] = {"kind": kind, "percent_of_capacity": round(fraction * 100)}
        rows.append(Row(labels, outcome.values(rate, seconds)))
    return rows


def check(kind: str, rows: Sequence[Row]) -> list[Check]:
    """Whether the tail is short at 70 % of the capacity."""
    return [
        tail(kind, row.values["p50_ms"], row.values["p99_ms"])
        for row in rows
        if row.labels["percent_of_capacity"] == round(CHECKED * 100)
    ]


def knee_of(rows: Sequence[Row]) -> int:
    """Index of the row where the knee is, by the median latency."""
    return knee(
        [row.values["offered_per_second"] for row in rows], [row.values["p50_ms"] for row in rows]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, draws and writes; returns the exit code."""
    given = program.shortened(_parser().parse_args(arguments))
    if given.quick:
        given.fractions = (CHECKED, 1.0)
    with ExitStack() as stack:
        manifest, target = _target(given, stack)
        rows: list[Row] = []
        checks: list[Check] = []
        for number, kind in enumerate(given.kinds):
            measured = sweep(
                target, kind, given.seconds, given.fractions, given.processes, given.capacity,
                seed=2 * APART * number,
            )  # fmt: skip
            print(_table(kind, measured), flush=True)
            rows += measured
            checks += check(kind, measured)
            results = collect("openloop", manifest, vars(given), rows, checks)
            path = results.write(given.output / f"openloop{SUFFIX}")
            drawn = plots.open_loop(results, given.output / "openloop.png")
    print(f"\nWritten to {path} and {drawn}")
    return 0


def _table(kind: str, rows: Sequence[Row]) -> str:
    at = knee_of(rows)
    lines: list[list[Cell]] = []
    for index, row in enumerate(rows):
        kept_up = carried(row.values["sent_per_second"], row.values["per_second"])
        words = ["knee"] * (index == at) + ["overloaded"] * (not kept_up)
        figures = [row.values[name] for name in COLUMNS]
        lines.append([f"{row.labels['percent_of_capacity']} %", *figures, " ".join(words)])
    return f"\n{kind}\n\n" + markdown(["of capacity", *COLUMNS, ""], lines)


def _target(given: argparse.Namespace, stack: ExitStack) -> tuple[Manifest | None, Target]:
    """A service that runs already, or one that is started for the measurement."""
    if given.http:
        return None, Target(given.http, given.grpc or "", given.model or "")
    manifest = find(given.repository, given.model)
    served = services.serving(given.repository, manifest["id"])
    return manifest, stack.enter_context(served).target


def _parser() -> argparse.ArgumentParser:
    made = program.parser("openloop", __doc__)
    program.add_model(made)
    add = made.add_argument
    add("--http", metavar="HOST:PORT", help="measure the service that runs here instead")
    add("--grpc", metavar="HOST:PORT", help="and its gRPC, for kinds that begin with grpc-")
    add("--kinds", nargs="+", choices=OFFERED, default=["rest-text", "rest-image"], metavar="KIND",
        help=f"what to send: {', '.join(OFFERED)} (default: rest-text rest-image)")  # fmt: skip
    add("--fractions", nargs="+", type=float, default=FRACTIONS, metavar="X",
        help="loads, as parts of the capacity")  # fmt: skip
    add("--capacity", type=float, help="requests per second, instead of measuring it")
    add("--processes", type=int, default=1, help="client processes (default: 1)")
    program.add_length(made, seconds=20.0)
    program.add_output(made)
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
