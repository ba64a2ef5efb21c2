"""`python -m benchmarks.openloop`: plots latency against offered load, and marks the knee.

First a closed loop finds the capacity. Then the program offers fractions of it, each at a constant
rate with Poisson arrivals, and measures latency from the time when a request was due. It writes a
JSON file and a plot, and prints a table. One column is the client's own lateness: if it is not far
below the latencies, use more client processes or a separate machine.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks import program
from benchmarks.reporting import plots
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Check, Label, Row
from benchmarks.reporting.targets import CHECKED, tail
from benchmarks.systems import services
from benchmarks.systems.published import find
from benchmarks.traffic import loops
from benchmarks.traffic.arrivals import offer
from benchmarks.traffic.connection import Target
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.requests import OFFERED, requests

FRACTIONS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
CAPACITY_CONCURRENCY = 32
APART = 100_000  # between seeds, so that no caption repeats and hits the cache
SLACK = 0.05  # a load counts as carried if at most this share stays unanswered


def sweep(target: Target, kind: str, given: argparse.Namespace, seed: int) -> list[Row]:
    """One row for each offered load; its label `state` marks the knee."""
    capacity = given.capacity
    if capacity is None:
        stream = requests(kind, target.model, seed + APART)
        found = loops.measure(target, stream, CAPACITY_CONCURRENCY, given.seconds)
        capacity = found.per_second / next(requests(kind, "")).items
        if not capacity:
            reasons = "; ".join(found.errors) or "no request was answered"
            raise BenchmarkError(f"{kind}: the capacity cannot be found: {reasons}")
    rows = []
    for number, fraction in enumerate(given.fractions, start=seed):
        rate = capacity * fraction
        outcome = offer(target, kind, rate, given.seconds, given.processes, number)
        values = outcome.values(rate, given.seconds)
        carried = values["per_second"] >= values["sent_per_second"] * (1 - SLACK)
        labels: dict[str, Label] = {"kind": kind, "percent_of_capacity": round(fraction * 100)}
        rows.append(Row({**labels, "state": "" if carried else "overloaded"}, values))
    at = knee(
        [row.values["offered_per_second"] for row in rows], [row.values["p50_ms"] for row in rows]
    )
    rows[at].labels["state"] = f"knee {rows[at].labels['state']}".strip()
    return rows


def knee(offered: Sequence[float], latency: Sequence[float]) -> int:
    """Index of the load at which power, load divided by latency, is greatest.

    Below it, more load gains more throughput than it costs latency; above it, the reverse.
    (Kleinrock's definition.)

    Args:
        offered: Loads, rising, requests per second.
        latency: Median or mean latency at each load; NaN if nothing was answered.
    """
    power = [
        load / seconds if seconds > 0 else 0.0  # false for NaN as well
        for load, seconds in zip(offered, latency, strict=True)
    ]
    return power.index(max(power))


def checks(rows: Sequence[Row]) -> list[Check]:
    """Whether the tail is short at 70 % of the capacity, for each kind of request."""
    return [
        tail(str(row.labels["kind"]), row.values["p50_ms"], row.values["p99_ms"])
        for row in rows
        if row.labels["percent_of_capacity"] == round(CHECKED * 100)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, draw and write; return the exit code."""
    given = program.parsed(_parser(), arguments)
    if given.quick:
        given.fractions = (CHECKED, 1.0)
    with ExitStack() as stack:
        if given.http:
            manifest, target = None, Target(given.http, given.grpc or "", given.model or "")
        else:
            manifest = find(given.repository, given.model)
            served = services.serving(given.repository, manifest["id"])
            target = stack.enter_context(served).target
        rows = record("openloop", manifest, given, (
            row
            for number, kind in enumerate(given.kinds)
            for row in sweep(target, kind, given, 2 * APART * number)
        ), checks=checks)  # fmt: skip
    drawn = plots.open_loop(rows, given.model or "", given.output / "openloop.png")
    print(f"Drawn in {drawn}")
    return 0


def _parser() -> argparse.ArgumentParser:
    made = program.measuring("openloop", __doc__, seconds=20.0)
    add = made.add_argument
    add("--http", metavar="HOST:PORT", help="measure this running service instead")
    add("--grpc", metavar="HOST:PORT", help="and its gRPC, for kinds that begin with grpc-")
    add("--kinds", nargs="+", choices=OFFERED, default=["rest-text", "rest-image"], metavar="KIND",
        help=f"what to send: {', '.join(OFFERED)} (default: rest-text rest-image)")  # fmt: skip
    add("--fractions", nargs="+", type=float, default=FRACTIONS, metavar="X",
        help="loads, as fractions of the capacity")  # fmt: skip
    add("--capacity", type=float, help="requests per second, instead of measuring it")
    add("--processes", type=int, default=1, help="client processes (default: 1)")
    return made


if __name__ == "__main__":
    sys.exit(program.run(main))
