"""FP8: what TensorRT takes of it, and the gate that needs no GPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from export.__main__ import main
from export.command import pipeline
from export.demo.model import CHECKPOINT, CONFIG
from export.errors import GraphError
from export.gate import calibration
from export.gate.runners import onnx_runner
from export.precision import half, insert
from export.precision.insert import E4M3, activation_scale, quantize_weight, rounded
from export.precision.quantize import quantize
from export.precision.ranges import Range
from export.precision.recipe import Recipe, recipes
from export.tensorrt import gpus
from export.tensorrt.gpus import Gpu, why_not_fp8
from gateway.models.manifest import PIXELS, TOKEN_IDS, file_sha256, read_repository
from tests.export import graphs
from tests.export.ahead import L4, Staged
from tests.export.data_sets import write_captions, write_scenes
from tests.export.graphs import Encoder, cosines

A10 = Gpu("NVIDIA A10", "8.6")
EXPORT = [str(CONFIG), "--pretrained", str(CHECKPOINT), "--id", "demo", "--max-batch", "4"]
EXPORT += ["--precision", "fp8", "--runtime", "tensorrt", "--token-lengths", "full"]


def answer(proto: onnx.ModelProto, encoder: Encoder, folder: Path) -> NDArray[np.float32]:
    onnx.save(proto, folder / "model.onnx")
    name = proto.graph.input[0].name
    return onnx_runner(folder / "model.onnx", name, fp8=True)(encoder.held_out)


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_answers_stay_close_and_attention_changes_them(
    kind: str, side: str, encoders: Callable[[str], dict[str, Encoder]], tmp_path: Path
) -> None:
    encoder = encoders(kind)[side]
    before = encoder.proto.SerializeToString(deterministic=True)
    exact = graphs.answer(encoder.proto, encoder.held_out)
    first, second, *_ = recipes(encoder.proto, "fp8", "minmax", encoder.feeds)
    assert (first.attention, second.attention) == (True, False)
    found = []
    for recipe in (first, second):
        proto = half.to_fp16(quantize(encoder.proto, encoder.feeds, recipe))
        onnx.checker.check_model(proto, full_check=True)
        found.append(answer(proto, encoder, tmp_path))
        assert 0.99 <= cosines(found[-1], exact).mean() < 1
    assert not np.array_equal(found[0], found[1])
    assert encoder.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_it_is_what_tensorrt_takes(
    kind: str, encoders: Callable[[str], dict[str, Encoder]]
) -> None:
    encoder = encoders(kind)["image"]
    recipe = next(recipes(encoder.proto, "fp8", "minmax", encoder.feeds))
    proto = half.to_fp16(quantize(encoder.proto, encoder.feeds, recipe))
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    pairs = [n for n in proto.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        scale, zero = values[node.input[1]], values[node.input[2]]
        assert scale.dtype == np.float16
        assert (scale > 0).all()
        assert zero.dtype == E4M3
        assert not zero.astype(np.float32).any()
        assert scale.ndim == int(node.input[0] in values)  # of weights, by output channel
    layers = [n for n in proto.graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]
    weighed = [n for n in layers if makers.get(n.input[1]) in pairs]
    fp8 = [n for n in weighed if makers[n.input[1]].input[0] in values]
    assert len(fp8) >= 4
    assert len(weighed) - len(fp8) == {"vit": 4, "resnet": 2, "timm": 0}[kind]  # of attention
    for node in weighed:
        assert makers[node.input[0]] in pairs
    for node in fp8:
        weight = makers[node.input[1]]
        assert weight.attribute[0].i == (0 if node.op_type == "Conv" else 1)
        if node.op_type == "Conv":
            assert not any(size % 16 for size in values[weight.input[0]].shape[:2])
    assert layers[0].op_type == "Conv"
    assert layers[0] not in weighed  # patches, or raw pixels
    assert layers[-1] not in weighed  # the last projection


def test_recipes_grow(encoders: Callable[[str], dict[str, Encoder]]) -> None:
    encoder = encoders("vit")["image"]
    tried = list(recipes(encoder.proto, "fp8", "minmax", encoder.feeds))
    assert [recipe.attention for recipe in tried] == [True] + [False] * (len(tried) - 1)
    sizes = [len(recipe.excluded) for recipe in tried]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] >= 5
    assert tried[0].describe() == "fp8, minmax, attention's products, 1 layers in FP16"
    with pytest.raises(GraphError, match="no samples"):
        quantize(encoder.proto, [], tried[0])
    layers = (n.name for n in encoder.proto.graph.node if n.op_type in ("MatMul", "Gemm", "Conv"))
    all_of_them = Recipe("fp8", "minmax", excluded=tuple(layers))
    with pytest.raises(GraphError, match="no MatMul, Gemm or Conv"):
        quantize(encoder.proto, encoder.feeds, all_of_them)


def test_rounding() -> None:
    near = rounded(np.array([1e9, -1e9, 449, 17, 19, 0.0009], np.float32), E4M3)
    np.testing.assert_array_equal(near.astype(float), [448, -448, 448, 16, 20, 0])
    weight = np.array([[1, 0, -2], [0.5, 0, 0.01]], np.float32)
    quantized, scales = quantize_weight(weight, axis=1, number=E4M3)
    np.testing.assert_allclose(scales, [1 / 448, 2**-14, 2 / 448])
    np.testing.assert_array_equal(quantized.astype(float), [[448, 0, -448], [224, 0, 2.25]])
    assert [float(n) for n in activation_scale((-448.0, 7.0), E4M3)] == [1, 0]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Staged:
    few = calibration.drawn(count=48)
    monkeypatch.setattr(calibration, "drawn", lambda: few)
    return Staged(monkeypatch, tmp_path)


def export(root: Path, *options: str) -> int:
    words = [*EXPORT, "--repository", str(root), "--report", str(root / "../report")]
    return main([*words, "--calibrate-images", "drawn", *options])


def test_it_is_judged_on_the_cpu_then_built_and_published(
    staged: Staged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, scenes = tmp_path / "models", write_scenes(tmp_path / "scenes")
    captions = write_captions(tmp_path / "captions")
    sets = [word for name in ("drawn", scenes, captions) for word in ("--evaluate", str(name))]
    assert export(root, *sets, "--small-batch-items", "16", "--max-recall-loss", "5") == 0
    assert "accuracy was not measured" not in capsys.readouterr().err
    manifest = read_repository(root)["demo.fp8.tensorrt"]
    assert manifest.precision == "fp8"
    assert manifest.gate.passed
    assert min(manifest.gate.image.mean_cosine, manifest.gate.text.mean_cosine) >= 0.999
    assert "attention's products" in manifest.recipe["image"]
    assert manifest.gate.zero_shot is not None
    assert manifest.gate.zero_shot.accuracy >= 0.99
    assert [each.name for each in manifest.gate.data_sets] == ["scenes", "captions"]
    for each in manifest.gate.data_sets:
        assert each.metrics != each.pytorch_metrics  # FP8's own
        assert min(each.pytorch_metrics.values()) < 1  # else it would show little
    card = (root / "demo.fp8.tensorrt.1.card.md").read_text()
    assert "Made FP8 by image: fp8, minmax" in card
    assert set(staged.plans) == {PIXELS, TOKEN_IDS}
    for name in (manifest.triton.image.name, *(each.name for each in manifest.triton.text)):
        built = root / name / "1" / "model.plan"
        assert built.read_bytes() in staged.plans.values()
        graph = f"{name}/1/model.onnx"  # to build a plan of on another machine
        assert file_sha256(root / graph) == manifest.files[graph]


@pytest.mark.parametrize("factory", ["mixers", "own_text_transformer"])
def test_a_custom_model_is_judged_and_built_likewise(
    factory: str, staged: Staged, tmp_path: Path
) -> None:
    custom = ["--custom", f"tests.export.custom_models:{factory}", "--id", "own", *EXPORT[5:]]
    places = ["--repository", str(tmp_path / "models"), "--report", str(tmp_path / "report")]
    assert main([*custom, *places, "--calibrate-images", "drawn"]) == 0
    manifest = read_repository(tmp_path / "models")["own.fp8.tensorrt"]
    assert manifest.gate.passed
    assert manifest.recipe.keys() == {"image", "text"}
    assert all(recipe.startswith("fp8") for recipe in manifest.recipe.values())
    assert set(staged.plans) == {PIXELS, TOKEN_IDS}


def test_a_wrong_scale_is_refused_before_a_plan_is_built(
    staged: Staged,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right, spoilt = insert.activation_scale, list[Range]()

    def wrong(ends: Range, number: insert.Number) -> tuple[np.float32, np.generic]:
        scale, zero = right(ends, number)
        spoilt.append(ends)
        return np.float32(scale / 64), zero  # what exceeds 1/64 of the range becomes 1/64 of it

    monkeypatch.setattr(insert, "activation_scale", wrong)
    assert export(tmp_path / "models") == 2
    errors = capsys.readouterr().err
    assert spoilt
    assert "refused: demo.fp8.tensorrt: the image encoder's mean cosine to PyTorch FP32" in errors
    assert not staged.plans
    assert not list((tmp_path / "models").glob("demo*"))


def test_an_older_gpu_is_refused_at_once(
    staged: Staged,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gpus, "find_gpus", lambda: (A10,))
    monkeypatch.setattr(pipeline, "load_checkpoint", None)
    assert export(tmp_path / "models") == 1
    assert "compute capability 8.9 or later; NVIDIA A10 has 8.6" in capsys.readouterr().err
    assert why_not_fp8(L4) is None
    assert why_not_fp8(Gpu("of tomorrow", "10.0")) is None


def test_it_needs_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXPORT, "--repository", str(tmp_path)]) == 1
    assert "FP8 needs pictures and captions" in capsys.readouterr().err
