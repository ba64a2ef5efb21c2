import math

from benchmarks.openloop import knee

CAPACITY = 100.0


def waiting(load: float) -> float:
    """Mean latency of a queue with random arrivals and service, in seconds."""
    return 1 / (CAPACITY - load)


def test_power_of_a_simple_queue_is_greatest_at_half_its_capacity() -> None:
    loads = [10.0 * n for n in range(1, 10)]
    assert loads[knee(loads, [waiting(load) for load in loads])] == CAPACITY / 2


def test_a_server_without_variance_carries_more() -> None:
    loads = [10.0 * n for n in range(1, 13)]
    latencies = [0.01 if load <= 90 else 0.01 * (load - 88) for load in loads]
    assert loads[knee(loads, latencies)] == 90


def test_loads_that_were_not_answered_are_no_knee() -> None:
    assert knee([10, 20, 30], [0.1, 0.1, math.nan]) == 1
