"""What waiting alone does to latency: a server that loses no moment, before random arrivals.

Requests come as in `benchmarks.openloop` (Poisson) and are served in the order in which they come;
whenever the server is free it takes all that wait, up to its largest call. A call takes a fixed
time, and a time for each item. A real service is compared with it: it waits as long, and suffers
from the unevenness of its machine too.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from benchmarks.reporting.tables import markdown
from benchmarks.traffic.arrivals import due_times

FRACTIONS = (0.3, 0.5, 0.7, 0.9)
FIXED = (0.0, 0.2, 0.5)  # of what a call with one item takes, the part that more items do not add


@dataclass(frozen=True, slots=True)
class Server:
    """How long calls take; the unit is what a call with one item takes."""

    fixed: float
    largest: int  # items of a call

    def takes(self, items: int) -> float:
        """The time of a call with this number of items."""
        return self.fixed + (1 - self.fixed) * items

    def capacity(self) -> float:
        """Items in a unit of time, when every call is full."""
        return self.largest / self.takes(self.largest)


def latencies(server: Server, load: float, requests: int, seed: int = 0) -> Iterator[float]:
    """From arrival to answer, at a load that is a fraction of the capacity."""
    rate = load * server.capacity()
    due = list(islice(due_times(rate, float("inf"), seed), requests))
    free, first = 0.0, 0
    while first < len(due):
        begin = max(free, due[first])
        last = first + 1
        while last < len(due) and last - first < server.largest and due[last] <= begin:
            last += 1
        free = begin + server.takes(last - first)
        yield from (free - at for at in due[first:last])
        first = last


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints p50, p99 and their ratio for servers that gain less or more from large calls."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.ideal_queue", description=__doc__
    )
    parser.add_argument("--requests", type=int, default=200_000, metavar="N", help="of each row")
    requests = parser.parse_args(arguments).requests
    rows: list[list[str | float]] = []
    for server in (Server(0.0, 1), *(Server(fixed, 32) for fixed in FIXED)):
        for load in FRACTIONS:
            times = list(latencies(server, load, requests))
            p50, p99 = (float(each) for each in np.percentile(times, [50, 99]))
            share, percent = f"{server.fixed:.0%}", f"{load:.0%}"
            rows.append([server.largest, share, percent, p50, p99, p99 / p50])
    header = ["items of a call, at most", "fixed part", "of capacity", "p50", "p99", "p99 / p50"]
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
