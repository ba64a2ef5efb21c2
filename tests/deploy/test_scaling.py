"""The arithmetic of docs/scaling.md, and the simulation."""

import itertools
import math
import re
import shlex
import subprocess
import sys

import pytest

from deploy.scaling.plan import Figures, plan
from deploy.scaling.simulation import Deployment, simulate
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "scaling.md").read_text()


def test_a_million_images_a_minute() -> None:
    found = plan(1_000_000 / 60, Figures(core_rate=100, gpu_rate=1000), utilisation=0.5, spare=2)
    assert found.gateways == math.ceil(16_666.7 / 50 / 8) + 2 == 44
    assert found.gpus == math.ceil(16_666.7 / 500) + 2 == 36
    assert found.out_gbit == pytest.approx(16_666.7 * 224 * 224 * 3 * 8 / 1e9, rel=1e-4)


def test_an_execution_is_a_fixed_part_and_one_for_each_image() -> None:
    figures = Figures(core_rate=100, gpu_rate=1000, batch=50, call_s=0.01)
    assert figures.execution_s(50) == pytest.approx(0.05)
    assert figures.execution_s(0) == pytest.approx(0.01)


def test_figures_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="fixed part"):
        Figures(core_rate=100, gpu_rate=10_000, batch=8, call_s=0.01)


def test_one_core_waits_as_queueing_theory_says() -> None:
    """One server with exponential times (M/M/1): so is the time in the system.

    The GPU takes next to no time.
    """
    figures = Figures(core_rate=1000, cores=1, gpu_rate=1e9, call_s=1e-9)
    outcome = simulate(
        Deployment(500, 1, 1, calls=10**6, decode_spread=1, network_s=0), figures, seconds=200
    )
    p50, p95, _ = outcome.latency_s
    assert p50 == pytest.approx(math.log(2) / 500, rel=0.1)
    assert p95 == pytest.approx(-math.log(0.05) / 500, rel=0.1)
    assert outcome.gateway_busy == pytest.approx(0.5, rel=0.05)


def test_enough_keeps_up_and_too_little_does_not() -> None:
    figures = Figures(core_rate=100, gpu_rate=1000, cores=4)
    enough = simulate(Deployment(600, 2, 1), figures)
    assert enough.rate == pytest.approx(600, rel=0.05)
    few_cores = simulate(Deployment(600, 1, 1), figures)
    assert few_cores.rate == pytest.approx(400, rel=0.05)
    assert few_cores.gateway_busy == pytest.approx(1, abs=0.02)
    assert few_cores.waiting > 500
    slow_gpu = simulate(Deployment(600, 2, 1), Figures(core_rate=100, gpu_rate=300, cores=4))
    assert slow_gpu.rate == pytest.approx(300, rel=0.1)
    assert slow_gpu.waiting > 500


def test_batches_grow_with_the_load_and_no_further_than_they_may() -> None:
    figures = Figures(core_rate=1000, gpu_rate=2000, cores=8, batch=16, call_s=0.002)
    idle = simulate(Deployment(20, 1, 1), figures, seconds=20)
    busy = simulate(Deployment(1500, 1, 1), figures)
    full = simulate(Deployment(6000, 1, 1), figures, seconds=2)
    assert idle.rows < 1.2 < busy.rows < full.rows <= 16
    assert full.rows > 15


def test_a_seed_gives_the_same_again() -> None:
    figures = Figures(core_rate=100, gpu_rate=1000)
    deployment = Deployment(500, 1, 1)
    assert simulate(deployment, figures, seed=3) == simulate(deployment, figures, seed=3)
    assert simulate(deployment, figures, seed=3) != simulate(deployment, figures, seed=4)


def examples() -> list[tuple[str, str]]:
    """Each command of the page, with what it is said to print."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [
        (command, shown)
        for (kind, command), (below, shown) in itertools.pairwise(blocks)
        if kind == "sh" and below == "text"
    ]


@pytest.mark.parametrize(("command", "shown"), examples())
def test_the_page_shows_what_the_program_prints(command: str, shown: str) -> None:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "deploy.scaling"]
    assert ran(words[1:]) == shown


def test_every_option_is_documented() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", ran(["-m", "deploy.scaling", "--help"]))) - {
        "--help"
    }
    assert not {option for option in options if option not in PAGE}


def ran(words: list[str]) -> str:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_there_are_examples() -> None:
    assert len(examples()) >= 2
