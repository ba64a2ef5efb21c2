"""The ideal server is held against what queueing theory says of it."""

import pytest

from benchmarks.experiments import ideal_queue
from benchmarks.experiments.ideal_queue import Server, latencies


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_at_a_time_waits_as_theory_says(load: float) -> None:
    """M/D/1: the mean wait is load / (2 (1 - load)) services."""
    times = list(latencies(Server(0.0, 1), load, 100_000, seed=1))
    assert len(times) == 100_000
    assert min(times) == pytest.approx(1)
    wait = sum(times) / len(times) - 1
    assert wait == pytest.approx(load / (2 * (1 - load)), rel=0.05)


def test_what_waits_is_joined() -> None:
    server = Server(0.5, 4)
    assert server.takes(4) == 2.5
    assert server.capacity() == 1.6
    assert max(latencies(server, 1e6, 8)) == pytest.approx(0.5 + 0.5 + 2.5 + 2, abs=1e-3)


def test_program(capsys: pytest.CaptureFixture[str]) -> None:
    ideal_queue.main(["--requests", "2000"])
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert header.endswith("| p99 / p50 |")
    assert len(rows) == 4 * len(ideal_queue.FRACTIONS)
