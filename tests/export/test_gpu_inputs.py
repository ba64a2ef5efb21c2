"""What travels to a GPU machine: inputs, PyTorch's vectors, and graphs that TensorRT builds."""

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
from export.tensorrt.plan import build_plan
from gpu_check.models import Inputs, inputs_of, published, typed
from gpu_check.plans import TENSORS
from tests.conftest import REPOSITORY
from tests.export.ahead import rtx

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


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_plans_are_built(inputs: Inputs, precision: str) -> None:
    encoders = list(typed(DEMO, inputs, precision))
    assert len(encoders) == 2
    for encoder in encoders:
        name, _ = TENSORS[str(encoder.labels["encoder"])]
        shapes = {name: encoder.items.shape[1:]}
        assert len(build_plan(rtx(), encoder.path, shapes, 8, compute_capability="8.9")) > 1e5


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
