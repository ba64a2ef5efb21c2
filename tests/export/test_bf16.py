"""BF16 in OpenVINO: which processors, which pairs, and its vectors beside FP32's."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.__main__ import main
from export.demo.model import CHECKPOINT, CONFIG
from export.errors import ExportError, GateError, GraphError
from export.gate import runners
from export.precision import bf16
from export.precision.variants import Graphs, Precision, Runtime, Variant, pairs
from export.publish.pbtxt import Serving
from export.publish.staging import Stage
from gateway.models.manifest import read_repository
from server.backends.processor import has_bf16
from tests.export.conftest import Exported
from tests.export.graphs import answer, cosines
from tests.export.serving import serving
from tests.items import RED_CIRCLE, b64, vectors

ROOT = Path(__file__).parents[2]
needs_bf16 = pytest.mark.skipif(
    not has_bf16(), reason="this processor has neither avx512_bf16 nor amx_bf16 among its flags"
)
DEMO = [str(CONFIG), "--pretrained", str(CHECKPOINT), "--id", "demo", "--max-batch", "8"]


@pytest.mark.parametrize(
    ("flags", "fits"), [("fpu avx512_vnni", False), ("fpu avx512_bf16", True), ("amx_bf16", True)]
)
def test_the_processor_must_have_bf16(tmp_path: Path, flags: str, fits: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Old One\nflags\t\t: {flags}\n")
    if fits:
        bf16.check_processor(cpuinfo)
        return
    with pytest.raises(ExportError, match=r"avx512_bf16 or amx_bf16 .*this one \(Old One\)"):
        bf16.check_processor(cpuinfo)


def test_an_export_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise ExportError("BF16 needs another processor")

    monkeypatch.setattr(bf16, "check_processor", refuse)
    assert main([*DEMO, "--repository", str(tmp_path), "--precision", "bf16"]) == 1
    said = capsys.readouterr().err
    assert said == "error: BF16 needs another processor\n"


@pytest.mark.parametrize(
    ("precisions", "runtimes", "expected"),
    [
        ([], [], ["fp32 onnxruntime"]),
        (["bf16"], [], ["bf16 openvino"]),
        (["bf16"], ["openvino"], ["bf16 openvino"]),
        (["fp32", "bf16", "int8"], [], ["fp32 onnxruntime", "int8 onnxruntime", "bf16 openvino"]),
        (["fp16", "bf16"], ["tensorrt", "openvino"], ["fp16 tensorrt", "bf16 openvino"]),
    ],
)
def test_bf16_and_openvino_go_together(
    precisions: list[Precision], runtimes: list[Runtime], expected: list[str]
) -> None:
    found = [f"{each.precision} {each.runtime}" for each in pairs(precisions, runtimes)]
    assert found == expected


@pytest.mark.parametrize(
    ("precisions", "runtimes", "alone"),
    [
        ([], ["openvino"], "fp32"),
        (["bf16"], ["onnxruntime"], "bf16"),
        (["fp32", "bf16"], ["tensorrt"], "bf16"),
        (["fp32", "fp8"], [], "fp8"),
        (["fp8"], ["onnxruntime", "tensorrt"], "onnxruntime"),
        (["fp32", "int8"], ["onnxruntime", "openvino"], "openvino"),
    ],
)
def test_what_has_no_partner_is_named(
    precisions: list[Precision], runtimes: list[Runtime], alone: str
) -> None:
    with pytest.raises(ExportError, match=f"^{alone} is left without a partner"):
        pairs(precisions, runtimes)


def test_the_id_names_both() -> None:
    assert Variant("bf16", "openvino").model_id("m") == "m.bf16.openvino"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in FP32, as committed, and in BF16; a custom one in both."""
    root = tmp_path_factory.mktemp("bf16")
    shutil.copytree(ROOT / "model_repository", root / "models")
    options = ["--repository", root / "models", "--report", root / "report"]
    places = ["--allow-slow", *map(str, options)]
    assert main([*DEMO, "--precision", "bf16", "--evaluate", "drawn", *places]) == 0
    custom = ["--custom", "tests.export.custom_models:own_text_transformer", "--max-batch", "4"]
    assert main([*custom, "--precision", "fp32,bf16", *places]) == 0
    return root / "models"


@needs_bf16
@pytest.mark.slow
@pytest.mark.parametrize(("model", "batches"), [("demo", {1, 2, 8}), ("own", {1, 2, 4})])
def test_it_passes_the_gate_of_fp16(model: str, batches: set[int], repository: Path) -> None:
    manifest = read_repository(repository)[f"{model}.bf16.openvino"]
    assert (manifest.precision, manifest.runtime) == ("bf16", "openvino")
    assert manifest.gate.passed
    assert manifest.gate.thresholds.min_cosine == 0.9995
    assert {batch.batch for batch in manifest.gate.text.runs} == batches
    [text] = manifest.triton.text
    assert text.packed
    for name in (manifest.triton.image.name, text.name):
        assert {each.name for each in (repository / name / "1").iterdir()} == {
            "model.xml", "model.bin"
        }  # fmt: skip


@needs_bf16
@pytest.mark.slow
def test_the_real_triton_serves_nearly_the_vectors_of_fp32(repository: Path) -> None:
    items: list[dict[str, str]] = [{"text": text} for text in ("a red circle", "blue star", "x")]
    items.append({"image": b64(RED_CIRCLE)})
    log: list[str] = []
    with serving(repository, log.append) as api:
        for model in ("demo", "own"):
            names = (model, f"{model}.bf16.openvino")
            full, rounded = (vectors(api, model=name, input=items) for name in names)
            assert (full * rounded).sum(axis=1).min() >= 0.9995
            assert not np.array_equal(full, rounded)
    assert not [line for line in log if "no BF16" in line]


@needs_bf16
@pytest.mark.slow
def test_padded_lengths_share_one_graph(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    manifest, root = exported("vit")
    image, *texts = (
        onnx.load(root / name / "1" / "model.onnx")
        for name in (manifest.triton.image.name, manifest.triton.text[0].name)
    )
    graphs = Graphs(image, dict.fromkeys((5, 16, 24), texts[0]))
    stage = Stage(tmp_path, "m", 1, 32, manifest.embedding_size, Serving(runtime="openvino"))
    files = stage.text(graphs)
    assert {length: path.name for length, path in files.items()} == dict.fromkeys(
        (5, 16, 24), "model.xml"
    )
    for name in ("model.xml", "model.bin"):
        assert len({path.with_name(name).stat().st_ino for path in files.values()}) == 1
    run = runners.text_runners(files, runners.openvino_runner)
    assert run[5] is run[24]
    ids = np.arange(1, 11, dtype=np.int32).reshape(2, 5)
    expected = answer(texts[0], ids)
    assert cosines(run[5](ids), expected).min() >= 0.999


def test_what_openvino_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(GraphError, match=r"model\.onnx: OpenVINO cannot convert it"):
        bf16.to_openvino(path)
    with pytest.raises(GateError, match=r"model\.onnx: OpenVINO cannot load it"):
        runners.openvino_runner(path, "pixels")
