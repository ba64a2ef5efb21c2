"""Finds the knee: the load at which latency begins to rise steeply."""

from collections.abc import Sequence


def knee(offered: Sequence[float], latency: Sequence[float]) -> int:
    """Index of the load at which power, load divided by latency, is greatest.

    Below it, more load gains more throughput than it costs latency; above it, the reverse.
    (Kleinrock's definition.)

    Args:
        offered: Loads, rising, requests per second.
        latency: Median or mean latency at each load; NaN if nothing was answered.

    Raises:
        ValueError: There are no loads, or the two differ in number.
    """
    if not offered or len(offered) != len(latency):
        raise ValueError(f"{len(offered)} loads and {len(latency)} latencies")
    power = [
        load / seconds if seconds > 0 else 0.0  # false for NaN as well
        for load, seconds in zip(offered, latency, strict=True)
    ]
    return power.index(max(power))
