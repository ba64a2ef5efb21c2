"""The precision ladder on the demo model: proved and published, or refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from export.__main__ import main
from export.demo.model import CHECKPOINT, CONFIG
from export.precision import half
from gateway.app import create_app, load
from gateway.inference.client import FakeInferClient
from gateway.models.manifest import Manifest, read_repository
from gateway.settings import Settings
from tests.export.serving import serving
from tests.items import vectors
from tests.openclip_reference import demo_reference

DEMO = [str(CONFIG), "--pretrained", str(CHECKPOINT), "--id", "demo", "--max-batch", "8"]
DEMO += ["--calibrate-images", "drawn", "--allow-slow"]

Feeds = Sequence[NDArray[Any]]


def export(root: Path, *options: str) -> int:
    return main([*DEMO, "--repository", str(root), "--report", str(root / "../report"), *options])


def four_bits(proto: onnx.ModelProto, feeds: Feeds = ()) -> onnx.ModelProto:
    """A converted model that answers fast and wrong: weights of 4 bits, one scale per tensor."""
    broken = onnx.ModelProto()
    broken.CopyFrom(proto)
    for tensor in broken.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1 and values.size > 1000:
            scale = np.abs(values).max() / 7
            rounded = (np.round(values / scale) * scale).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    return broken


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ladder") / "models"
    precisions = ["--precision", "fp32", "--precision", "fp16", "--precision", "int8"]
    assert export(root, "--evaluate", "drawn", *precisions) == 0
    return root


@pytest.fixture(scope="module")
def manifests(ladder: Path) -> dict[str, Manifest]:
    return read_repository(ladder)


def test_each_is_a_model_of_its_own(manifests: dict[str, Manifest]) -> None:
    assert set(manifests) == {"demo", "demo.fp16", "demo.int8"}
    assert len({manifest.fingerprint for manifest in manifests.values()}) == 3
    for manifest in manifests.values():
        assert manifest.gate.passed
        assert manifest.precision in (manifest.id.rpartition(".")[2], "fp32")
    assert set(manifests["demo.int8"].recipe) == {"image", "text"}
    assert manifests["demo.fp16"].recipe == {}


def test_figures_reach_their_thresholds(manifests: dict[str, Manifest]) -> None:
    floors = {"demo": 0.99999, "demo.fp16": 0.9995}
    for model_id, floor in floors.items():
        gate = manifests[model_id].gate
        assert min(gate.image.min_cosine, gate.text.min_cosine) >= floor
    int8 = manifests["demo.int8"].gate
    assert min(int8.image.mean_cosine, int8.text.mean_cosine) >= 0.99
    for manifest in manifests.values():
        zero_shot = manifest.gate.zero_shot
        assert zero_shot is not None
        assert zero_shot.pictures == 480
        assert zero_shot.accuracy >= zero_shot.pytorch_accuracy - 0.01
        assert zero_shot.pytorch_accuracy >= 0.97
        batches = {(run.length, run.batch) for run in manifest.gate.text.runs}
        assert batches == {(length, batch) for length in (16, 24, 32) for batch in (1, 2, 8)}
        [text] = manifest.triton.text
        assert (text.name, text.packed) == (f"{manifest.id}.text", True)


def test_int8_graphs_are_int8(ladder: Path) -> None:
    graph = onnx.load(ladder / "demo.int8.image" / "1" / "model.onnx").graph
    assert any(node.op_type == "DequantizeLinear" for node in graph.node)
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)


def test_report_tells_all(ladder: Path) -> None:
    report = (ladder.parent / "report" / "report.md").read_text()
    for shown in (
        "`demo`",
        "`demo.fp16`",
        "`demo.int8`",
        "cosines.png",
        "zero-shot",
    ):
        assert shown in report
    assert (ladder.parent / "report" / "cosines.png").stat().st_size > 5_000


def test_all_are_served_by_the_real_triton(ladder: Path) -> None:
    texts = ["a photo of a red circle.", "blue star", "a large green heart on a striped ground"]
    expected = demo_reference().texts(texts)
    with serving(ladder) as api:
        for model_id, floor in (("demo", 0.99999), ("demo.fp16", 0.9995), ("demo.int8", 0.99)):
            found = vectors(api, model=model_id, input=texts)
            assert (found * expected).sum(axis=1).min() >= floor
        listed = {model["id"]: model for model in api.get("/v1/models").json()["data"]}
        assert listed["demo.int8"]["precision"] == "int8"
        assert listed["demo.int8"]["gate"]["passed"] is True
        assert listed["demo.int8"]["gate"]["zero_shot_accuracy"] >= 0.97


def test_a_broken_variant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(half, "to_fp16", four_bits)
    root = tmp_path / "models"
    assert export(root, "--precision", "fp16") == 2
    errors = capsys.readouterr().err
    assert "refused: demo.fp16: the image encoder's lowest cosine to PyTorch FP32 is" in errors
    assert "short of 0.9995; not published" in errors
    assert not list(root.glob("demo*"))
    assert not list(root.glob(".staging-*"))


async def test_allow_failing_publishes_it_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "to_fp16", four_bits)
    root = tmp_path / "models"
    assert export(root, "--precision", "fp16", "--allow-failing") == 0
    gate = read_repository(root)["demo.fp16"].gate
    assert not gate.passed
    settings = Settings(model_repository=root, grpc_port=0)
    app = create_app(
        settings,
        load(settings),
        lambda address: FakeInferClient(lambda call: np.zeros((0, 0), np.float32)),
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as api,
    ):
        [model] = (await api.get("/v1/models")).json()["data"]
    assert model["gate"]["passed"] is False
    assert "lowest cosine" in json.dumps(model["gate"]["failures"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int8", "--calibrate-images", "EMPTY"], "--calibrate-texts"),
        (
            ["--precision", "int8", "--calibrate-images", "EMPTY", "--calibrate-texts", "TEXTS"],
            "pictures",
        ),
        (["--evaluate", "EMPTY"], "pictures"),
        (["--evaluate", "nowhere"], "nowhere"),
        (["--pretrained", "TEXTS"], "texts.txt"),
    ],
)
def test_wrong_files_are_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts.txt").write_text("a photo\n")
    places = {"EMPTY": str(tmp_path / "empty"), "TEXTS": str(tmp_path / "texts.txt")}
    root = tmp_path / "models"
    assert export(root, *(places.get(option, option) for option in options)) == 1
    errors = capsys.readouterr().err
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert words in line
    assert not list(root.glob("demo*"))


def test_int8_without_calibration_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(CONFIG), "--repository", str(tmp_path), "--precision", "int8"]) == 1
    assert "--calibrate-images DIR" in capsys.readouterr().err


def test_tensorrt_without_tensorrt_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "models", "--runtime", "tensorrt") == 1
    said = capsys.readouterr().err
    assert "TensorRT" in said
    assert "tracing" not in said  # known before any work
    assert not list((tmp_path / "models").glob("demo*"))


def test_list_shows_what_openclip_offers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ViT-B-32  ") and "laion2b_s34b_b79k" in line for line in shown)
    assert any(line.split()[0] == "RN50" for line in shown)
