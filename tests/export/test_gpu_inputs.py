"""What travels to a GPU machine: inputs, PyTorch's vectors, and graphs that TensorRT builds."""

import importlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.systems.published import manifests
from export.__main__ import main
from export.demo.model import CHECKPOINT, CONFIG
from export.gate import calibration
from export.gate.metrics import row_cosines
from export.gate.runners import onnx_runner
from export.gate.thresholds import DEFAULT_THRESHOLDS
from gpu_check import plans
from gpu_check.engines import Measure
from gpu_check.models import Inputs, inputs_of, published, typed
from gpu_check.plans import TENSORS
from tests.conftest import REPOSITORY

DEMO = manifests(REPOSITORY)["demo"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("gpu-inputs")
    words = [str(CONFIG), "--pretrained", str(CHECKPOINT), "--gpu-inputs", str(root)]
    few = calibration.drawn(count=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "drawn", lambda: few)
        assert main(words) == 0
    return inputs_of(DEMO, root)


def test_the_vectors_are_those_of_the_published_model(inputs: Inputs) -> None:
    for encoder in published(REPOSITORY, DEMO, inputs):
        session = onnxruntime.InferenceSession(encoder.path, providers=["CPUExecutionProvider"])
        [found] = session.run(None, {session.get_inputs()[0].name: encoder.items})
        assert len(found) > 5
        assert row_cosines(found, encoder.truth).min() > 0.99999


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_typed_graphs_give_these_vectors_and_are_counted(inputs: Inputs, precision: str) -> None:
    limits = DEFAULT_THRESHOLDS[precision]
    for encoder in typed(DEMO, inputs, precision):
        name = TENSORS[str(encoder.labels["encoder"])][0]
        found = onnx_runner(encoder.path, name, fp8=precision == "fp8")(encoder.items)
        cosines = row_cosines(found, encoder.truth)
        assert cosines.mean() >= (limits.mean_cosine or limits.min_cosine or 1)
        assert encoder.flops is not None
        assert 1e6 < encoder.flops < 1e8
        assert encoder.batch(3).shape == (3, *encoder.items.shape[1:])
        assert encoder.batch(3).dtype == encoder.items.dtype


def test_plans_are_built_and_nothing_is_said_of_their_speed_without_a_gpu(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PRECISIONS", ("fp16", "fp8", "fp4"))
    importlib.import_module("tensorrt_rtx_libs")  # loads what the bindings are linked to
    trt = importlib.import_module("tensorrt_rtx_bindings")
    measure = Measure("plans", (1, 8), 0.01, 1e9, lambda: 0)
    options = plans.options_of((1, 8), tmp_path / "cache", "8.9")
    rows = list(plans.lines(DEMO, inputs, measure, trt, None, options))
    verdicts = [row.labels["verdict"] for row in rows]
    assert verdicts == ["pass", "not here"] * 4 + ["not here"]
    assert all(row.values["plan_mb"] > 0.1 for row in rows[:8:2])
    assert not [row for row in rows if "per_second" in row.values]


def test_pictures_without_captions_are_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--gpu-inputs", str(tmp_path / "inputs"), "--calibrate-images", str(tmp_path)]
    assert main([str(CONFIG), *words]) == 1
    assert capsys.readouterr().err == (
        "error: --calibrate-images needs --calibrate-texts FILE as well\n"
    )
    assert not (tmp_path / "inputs").exists()


def test_a_model_without_inputs_has_its_golden_pair(tmp_path: Path) -> None:
    found = inputs_of(DEMO, tmp_path)
    assert found.folder is None
    assert found.pixels.shape == (1, 64, 64, 3)
    assert found.token_ids.shape == (1, 32)
    assert np.allclose(np.linalg.norm(found.text, axis=1), 1)
    assert not list(typed(DEMO, found, "fp16"))
