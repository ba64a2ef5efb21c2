"""The driver's calls and TensorRT's, in order, on a GPU that is none."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.reporting.results import Row
from export.tensorrt.errors import NoGpuError
from gpu_check import plans
from gpu_check.cuda import Device
from gpu_check.engines import Encoder, Measure
from tests.gpu_check.fake_gpu import Context, Driver, encoded, tensorrt

PIXELS = np.random.default_rng(3).integers(0, 256, (11, 8, 8, 3), np.uint8)


def lines(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    driver: Driver,
    context: Context,
    precision: str = "fp16",
) -> list[Row]:
    path = tmp_path / "image.onnx"
    path.touch()
    encoder = Encoder(
        {"model": "m", "precision": precision, "encoder": "image"}, path, PIXELS, encoded(PIXELS),
        lambda count: PIXELS[:count], flops=10**6,
    )  # fmt: skip
    monkeypatch.setattr(
        plans, "typed", lambda _, __, wanted: [encoder] if wanted == precision else []
    )
    device = Device(lambda _: driver)
    measure = Measure("plans", (1, 8), 0.001, 1e9, device.used_bytes)
    made = plans.lines({"id": "m"}, None, measure, tensorrt(context), device, tmp_path / "cache")  # type: ignore[arg-type]
    return list(made)


def verdicts(rows: list[Row]) -> list[str]:
    return [str(row.labels["verdict"]) for row in rows]


def test_a_plan_is_built_compared_and_timed_with_and_without_graphs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver = Driver()
    rows = lines(monkeypatch, tmp_path, driver, Context(driver))
    assert verdicts(rows) == ["pass"] * 6 + ["not here"] * 2
    built, parity, *timed = rows[:6]
    assert built.values["plan_mb"] > 0
    assert parity.values["items"] == 11
    assert parity.values["min_cosine"] == pytest.approx(1)
    assert [(row.labels["batch"], row.labels["CUDA graph"]) for row in timed] == [
        (1, "no"), (1, "yes"), (8, "no"), (8, "yes"),
    ]  # fmt: skip
    for row in timed:
        rate = row.values["per_second"]
        assert row.values["percent_of_limit"] == pytest.approx(100 * rate * 10**6 / 1e9)
    assert rows[-1].labels["why"] == plans.NO_GRAPHS
    assert driver.calls.count("cuStreamBeginCapture_v2") == 2
    assert driver.calls.count("cuGraphLaunch") > 2
    assert len(driver.memory) == 2  # of the last batch alone


def test_a_graph_that_computes_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver = Driver()
    monkeypatch.setattr(driver, "_cuGraphLaunch", lambda *_: None)
    timed = lines(monkeypatch, tmp_path, driver, Context(driver))[2:6]
    assert verdicts(timed) == ["pass", "fail", "pass", "fail"]
    assert timed[1].labels["why"] == "cosine 0.000000 to the run without a graph"


def test_a_graph_that_cannot_be_captured_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver = Driver()
    driver.fails = "cuStreamEndCapture"
    timed = lines(monkeypatch, tmp_path, driver, Context(driver))[2:6]
    assert verdicts(timed) == ["pass", "fail", "pass", "fail"]
    assert "cuStreamEndCapture fails with error 1" in str(timed[1].labels["why"])


def test_a_plan_that_does_not_run_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = Context(Driver())
    context.works = False
    rows = lines(monkeypatch, tmp_path, context.driver, context)
    assert verdicts(rows) == ["pass", "fail", "not here", "not here"]
    assert "TensorRT does not run the plan" in str(rows[1].labels["why"])


@pytest.mark.parametrize(("capability", "built"), [((8, 6), False), ((9, 0), True)])
def test_fp8_is_built_where_the_gpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: tuple[int, int], built: bool
) -> None:
    driver = Driver()
    driver.capability = capability
    first, *_ = lines(monkeypatch, tmp_path, driver, Context(driver), "fp8")[2:]
    assert first.labels["verdict"] == ("pass" if built else "not here")
    assert ("compute capability 8.9 or later" in str(first.labels.get("why"))) != built


def test_no_gpu_is_said() -> None:
    driver = Driver()
    driver.fails = "cuDevicePrimaryCtxRetain"
    with pytest.raises(NoGpuError, match="cuDevicePrimaryCtxRetain fails with error 1"):
        Device(lambda _: driver)
