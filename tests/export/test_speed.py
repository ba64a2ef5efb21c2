"""A variant that is not faster than FP32 is refused, whatever its vectors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.__main__ import main
from export.gate import speed
from export.gate.runners import RunEncoder
from export.gate.speed import Pair
from gateway.models.gate import Speed
from gateway.models.manifest import read_repository
from gateway.models.variants import processor

PIXELS = np.zeros((3, 4, 4, 3), np.uint8)
IDS = np.zeros((2, 5), np.int32)


class Clock:
    """Time passes only while an encoder runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self) -> float:
        return self.now

    def encoder(self, seconds: Callable[[int], float]) -> RunEncoder:
        """An encoder that takes `seconds` of the number of its earlier calls."""
        calls = 0

        def run(items: NDArray[np.generic]) -> NDArray[np.float32]:
            nonlocal calls
            self.now += seconds(calls)
            calls += 1
            self.shapes.append(items.shape)
            return np.zeros((len(items), 2), np.float32)

        return run

    def pair(self, image: float, text: float) -> Pair:
        return Pair(self.encoder(lambda _: image), self.encoder(lambda _: text))


@pytest.mark.parametrize(("max_batch", "batches"), [(64, [1, 8]), (4, [1, 4]), (1, [1])])
def test_each_encoder_and_both_together(max_batch: int, batches: list[int]) -> None:
    clock = Clock()
    found = speed.compare(clock.pair(6, 2), clock.pair(2, 4), PIXELS, IDS, max_batch, clock)
    assert found == tuple(Speed(batch, 3.0, 0.5, 8 / 6) for batch in batches)
    assert set(clock.shapes) == {
        shape for batch in batches for shape in ((batch, 4, 4, 3), (batch, 5))
    }
    assert speed.failures(found) == []


def test_rounds_in_which_the_machine_was_busy_do_not_count() -> None:
    clock = Clock()
    busy = clock.encoder(lambda call: 50.0 if call % 3 == 1 else 1.0)
    ours = Pair(busy, clock.encoder(lambda _: 1.0))
    [found] = speed.compare(clock.pair(2, 1), ours, PIXELS, IDS, 1, clock)
    assert found == Speed(1, 2.0, 1.0, 1.5)


def test_a_failure_gives_the_figures() -> None:
    slow, equal = Speed(1, 0.9, 0.5, 0.804), Speed(8, 1.0, 1.0, 1.0)
    [first, second] = speed.failures([slow, equal, Speed(16, 2, 2, 2)])
    assert "only 0.80 times as fast as FP32 at batch 1 (image 0.90, text 0.50)" in first
    assert "1.00 times as fast as FP32 at batch 8" in second


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [False, True])
def test_a_slow_variant_needs_allow_slow(
    model_of: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: bool,
) -> None:
    slow = (Speed(1, 1.2, 1.1, 1.15), Speed(8, 0.9, 0.7, 0.85))
    monkeypatch.setattr(speed, "compare", lambda *_: slow)
    root, report = tmp_path / "models", tmp_path / "report"
    words = [model_of("vit"), "--id", "m", "--precision", "fp16", "--max-batch", "8"]
    words += ["--token-lengths", "full", "--repository", str(root), "--report", str(report)]
    assert main([*words, *["--allow-slow"] * allowed]) == (0 if allowed else 2)
    printed = capsys.readouterr()
    assert "speed        0.85 times as fast as FP32 at batch 8" in printed.out
    assert "| `m.fp16` | 8 | 0.90 | 0.70 | 0.85 |" in (report / "report.md").read_text()
    refusal = "refused: m.fp16: it is only 0.85 times as fast as FP32 at batch 8"
    assert (refusal in printed.err) is not allowed
    if allowed:
        gate = read_repository(root)["m.fp16"].gate
        assert gate.passed
        assert (gate.speeds, gate.processor) == (slow, processor())
    else:
        assert not list(root.glob("m.fp16*"))
