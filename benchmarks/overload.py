"""`python -m benchmarks.overload`: ten times more than the service can take.

First a closed loop finds the best throughput. Then an open loop offers a multiple of it. Accepted
requests should come through at nearly the best rate and not wait long, refusals should come at
once, and memory should stay flat. After the last answer the service should be as good as before;
only then is it measured again. The client shares the CPUs of the service, so the results name the
cores that each of the two has used.
"""

import argparse
import math
import sys
from itertools import islice

import uvloop

from benchmarks import program
from benchmarks.reporting.results import SUFFIX, Check, Row, collect
from benchmarks.reporting.tables import markdown
from benchmarks.systems import processes, services
from benchmarks.systems.published import find
from benchmarks.traffic import loops
from benchmarks.traffic.errors import BenchmarkError
from benchmarks.traffic.flood import Flooded, flood
from benchmarks.traffic.requests import KINDS, NEEDS_LABEL_SET, requests

LEAST_SHARE = 0.9  # of the best throughput, under overload
MOST_REFUSAL_MS = 50.0  # median
MOST_WAIT_MS = 15_000.0  # 99th percentile of what is accepted; GATEWAY_MAX_WAIT_S and a half
MOST_GROWTH = 100.0  # megabytes
MB = 10**6
OFFERED = [kind for kind in KINDS if kind not in NEEDS_LABEL_SET]
CONCURRENCY = 32
MOST_PREPARED = 100_000  # different requests; what comes twice may be known already


def measure(given: argparse.Namespace, served: services.Gateway) -> dict[str, float]:
    """The figures of one flood, with what was before and comes after.

    Raises:
        BenchmarkError: Nothing was answered before the flood.
    """
    target, kind = served.target, given.kind
    before = loops.measure(target, kind, CONCURRENCY, given.seconds / 4)
    items = next(requests(kind, target.model)).items
    best = before.per_second / items
    if not best:
        raise BenchmarkError(f"{kind}: nothing was answered")
    rate = given.times * best
    count = min(MOST_PREPARED, math.ceil(1.1 * rate * given.seconds))
    sent = list(islice(requests(kind, target.model, seed=1), count))
    resident, used = _resident_bytes(served.pid), processes.tree_cpu_seconds(served.pid)
    flooded = uvloop.run(flood(target, sent, rate, given.seconds))
    grown = _resident_bytes(served.pid) - resident
    used = processes.tree_cpu_seconds(served.pid) - used
    after = loops.measure(target, kind, CONCURRENCY, given.seconds / 4)
    return {
        "best_per_second": best,
        **_flood_values(flooded),
        "grown_megabytes": grown / MB,
        "gateway_cores": used / flooded.elapsed,
        "after_per_second": after.per_second / items,
    }


def _resident_bytes(root: int) -> int:
    """Of the gateway's processes, of which there may be several."""
    return sum(processes.resident_bytes(pid) for pid in processes.tree(root))


def _flood_values(flooded: Flooded) -> dict[str, float]:
    others = flooded.others()
    return {
        "sent_per_second": flooded.statuses.total() / flooded.elapsed,
        "accepted_per_second": len(flooded.accepted) / flooded.elapsed,
        "accepted_median_ms": flooded.percentile_ms(flooded.accepted),
        "accepted_p99_ms": flooded.percentile_ms(flooded.accepted, 99),
        "refused_per_second": len(flooded.refused) / flooded.elapsed,
        "refused_median_ms": flooded.percentile_ms(flooded.refused),
        "other": sum(others.values()),
        **{f"other: {status}": count for status, count in others.items()},
        "unsent": flooded.unsent,
        "client_cores": flooded.client_seconds / flooded.elapsed,
    }


def check(values: dict[str, float]) -> list[Check]:
    """What an overloaded service promises."""
    best = values["best_per_second"]
    share, again = values["accepted_per_second"] / best, values["after_per_second"] / best
    refusal, grown = values["refused_median_ms"], values["grown_megabytes"]
    return [
        Check("overload: accepted / best", share, LEAST_SHARE, at_least=True),
        Check("overload: median refusal, ms", refusal, MOST_REFUSAL_MS, at_least=False),
        Check(
            "overload: p99 of the accepted, ms",
            values["accepted_p99_ms"],
            MOST_WAIT_MS,
            at_least=False,
        ),
        Check("overload: memory, MB more", grown, MOST_GROWTH, at_least=False),
        Check("overload: other statuses", values["other"], 0.0, at_least=False),
        Check("after overload: per second / best", again, LEAST_SHARE, at_least=True),
    ]


def main() -> int:
    """Measures, prints and writes; returns the exit code."""
    made = program.parser("overload", __doc__)
    program.add_model(made)
    made.add_argument("--kind", choices=OFFERED, default="rest-image", help="what to send")
    made.add_argument("--times", type=float, default=10.0, help="the capacity (default: 10)")
    services.add_env(made)
    program.add_length(made, seconds=60.0)
    program.add_output(made)
    given = program.shortened(made.parse_args())
    manifest, settings = find(given.repository, given.model), services.settings(given.env)
    with services.serving(given.repository, manifest["id"], settings) as served:
        values = measure(given, served)
    checks = check(values)
    print(markdown(["", given.kind], [[name, value] for name, value in values.items()]))
    row = Row({"kind": given.kind, "times": round(given.times)}, values)
    results = collect("overload", manifest, vars(given), [row], checks)
    print(f"\nWritten to {results.write(given.output / f'overload{SUFFIX}')}")
    return 0


if __name__ == "__main__":
    sys.exit(program.run(main))
