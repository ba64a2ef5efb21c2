"""`python -m benchmarks.overload`: offers ten times the load that the service can serve.

First a closed loop finds the best throughput. Then an open loop offers a multiple of it. Accepted
requests should be served at nearly the best rate without a long wait, refusals should be immediate,
and memory should stay flat. After the last answer the service is measured again, and should be as
fast as before. The client shares the CPUs of the service, so the results state the cores that each
of them used.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import uvloop

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Check, Row
from benchmarks.systems import processes, services
from benchmarks.systems.published import Manifest, find
from benchmarks.traffic import loops
from benchmarks.traffic.arrivals import flood
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.requests import OFFERED, requests

LEAST_SHARE = 0.9  # of the best throughput, under overload
MOST_REFUSAL_MS = 50.0  # median
MOST_WAIT_MS = 15_000.0  # 99th percentile of accepted requests; GATEWAY_MAX_WAIT_S and a half
MOST_GROWTH = 100.0  # megabytes
MB = 10**6
CONCURRENCY = 32
MOST_PREPARED = 100_000  # different requests; a repeated one may be cached


def measure(given: argparse.Namespace, manifest: Manifest) -> Iterator[Row]:
    """The figures of one flood, and of closed loops before and after it.

    Raises:
        BenchmarkError: Nothing was answered before the flood.
    """
    with services.serving(given.repository, manifest["id"], given.env) as served:
        best = _per_second(served, given, seed=0)
        if not best:
            raise BenchmarkError(f"{given.kind}: nothing was answered")
        rate = given.times * best
        count = min(MOST_PREPARED, math.ceil(1.1 * rate * given.seconds))
        sent = list(islice(requests(given.kind, served.target.model, seed=1), count))
        resident, used = _resident_bytes(served.pid), processes.tree_cpu_seconds(served.pid)
        flooded = uvloop.run(flood(served.target, sent, rate, given.seconds))
        grown = _resident_bytes(served.pid) - resident
        used = processes.tree_cpu_seconds(served.pid) - used
        after = _per_second(served, given, seed=2)  # captions that are not in the text cache
    others, accepted = flooded.others(), loops.percentiles_ms(flooded.accepted)
    refused = loops.percentiles_ms(flooded.refused)
    yield Row({"kind": given.kind, "times": f"{given.times:g}"}, {
        "best_per_second": best,
        "sent_per_second": flooded.statuses.total() / flooded.elapsed,
        "accepted_per_second": len(flooded.accepted) / flooded.elapsed,
        "accepted_median_ms": accepted["p50_ms"],
        "accepted_p99_ms": accepted["p99_ms"],
        "refused_per_second": len(flooded.refused) / flooded.elapsed,
        "refused_median_ms": refused["p50_ms"],
        "other": sum(others.values()),
        **{f"other: {status}": count for status, count in others.items()},
        "unsent": flooded.unsent,
        "client_cores": flooded.client_seconds / flooded.elapsed,
        "grown_megabytes": grown / MB,
        "gateway_cores": used / flooded.elapsed,
        "after_per_second": after,
    })  # fmt: skip


def _per_second(served: services.Gateway, given: argparse.Namespace, seed: int) -> float:
    """Requests a second of a closed loop."""
    stream = requests(given.kind, served.target.model, seed)
    found = loops.measure(served.target, stream, CONCURRENCY, given.seconds / 4)
    return found.per_second / next(stream).items


def _resident_bytes(root: int) -> int:
    """Of the gateway's processes, of which there may be several."""
    return sum(processes.resident_bytes(pid) for pid in processes.tree(root))


def checks(rows: Sequence[Row]) -> list[Check]:
    """Checks of the promises of an overloaded service, from the only row."""
    values = rows[0].values
    best = values["best_per_second"]
    most = [
        ("overload: median refusal, ms", values["refused_median_ms"], MOST_REFUSAL_MS),
        ("overload: p99 of the accepted, ms", values["accepted_p99_ms"], MOST_WAIT_MS),
        ("overload: memory, MB more", values["grown_megabytes"], MOST_GROWTH),
        ("overload: other statuses", values["other"], 0.0),
    ]
    return [
        Check("overload: accepted / best", values["accepted_per_second"] / best, LEAST_SHARE),
        *(Check(*each, at_least=False) for each in most),
        Check("after overload: per second / best", values["after_per_second"] / best, LEAST_SHARE),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    made = program.measuring("overload", __doc__, seconds=60.0, env=True)
    made.add_argument("--kind", choices=OFFERED, default="rest-image", help="kind of request")
    made.add_argument("--times", type=float, default=10.0, help="the capacity (default: 10)")
    given = program.parsed(made, arguments)
    manifest = find(given.repository, given.model)
    record("overload", manifest, given, measure(given, manifest), checks=checks)
    return 0


if __name__ == "__main__":
    sys.exit(program.run(main))
