"""Every family of models in FP16 and INT8, from the command line and through the gate."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from transformers import MPNetConfig

from export.__main__ import main
from export.demo.scenes import draw_scenes
from gateway.models.manifest import Manifest, read_repository
from tests.export import models
from tests.export.conftest import KINDS
from tests.export.graphs import assert_runs_on_old_runtimes

MAX_BATCH = 3


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a few pictures and captions."""
    folder = tmp_path_factory.mktemp("calibration")
    for index, scene in enumerate(draw_scenes(8, seed=3)):
        scene.image.save(folder / f"{index}.png")
    words = models.WORDS.split()
    captions = [" ".join(words[start : start + 4]) for start in range(len(words) - 4)]
    (folder / "captions.txt").write_text("\n".join(captions))
    return ["--calibrate-images", str(folder), "--calibrate-texts", str(folder / "captions.txt")]


def element_types(root: Path, manifest: Manifest) -> list[set[int]]:
    """Of the weights of the image encoder, and of the text encoder."""
    encoders = (manifest.triton.image.name, manifest.triton.text[-1].name)
    graphs = [onnx.load(root / name / "1" / "model.onnx").graph for name in encoders]
    return [{tensor.data_type for tensor in graph.initializer} for graph in graphs]


@pytest.mark.parametrize("kind", KINDS)
def test_fp16_and_int8_pass_the_gate(
    kind: str, model_of: Callable[[str], str], tmp_path: Path, calibration: list[str]
) -> None:
    root = tmp_path / "models"
    options = ["--repository", str(root), "--report", str(tmp_path / "report"), "--id", kind]
    options += ["--max-batch", str(MAX_BATCH), "--token-lengths", "8,full"]
    options += [
        "--precision",
        "fp16",
        "--precision",
        "int8",
        "--calibration",
        "minmax",
        "--allow-slow",
    ]
    assert main([model_of(kind), *options, *calibration]) == 0
    manifests = read_repository(root)
    half, int8 = manifests[f"{kind}.fp16"], manifests[f"{kind}.int8"]
    for manifest in (half, int8):
        assert manifest.gate.passed
        places = {(each.batch, each.length) for each in manifest.gate.rankings}
        assert places == {(n, at) for n in (1, 2, MAX_BATCH) for at in manifest.token_lengths}
    assert min(half.gate.image.min_cosine, half.gate.text.min_cosine) >= 0.9995
    assert min(int8.gate.image.mean_cosine, int8.gate.text.mean_cosine) >= 0.99
    assert all(onnx.TensorProto.FLOAT16 in types for types in element_types(root, half))
    assert all(onnx.TensorProto.INT8 in types for types in element_types(root, int8))
    for path in root.rglob("model.onnx"):
        assert_runs_on_old_runtimes(path)


def test_a_text_encoder_that_openclip_does_not_know_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models.save_tokenizer(tmp_path / "mpnet")
    MPNetConfig(vocab_size=64, hidden_size=32, num_attention_heads=2).save_pretrained(folder)
    config = models.write_config(tmp_path, "tiny-mpnet", models.hf_text(str(folder)))
    assert main([str(config), "--repository", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: tiny-mpnet: OpenCLIP does not know text encoders of the kind")
    assert "'mpnet'" in error
    assert "xlm-roberta" in error
