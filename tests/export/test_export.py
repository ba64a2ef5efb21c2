import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import open_clip
import pytest
import torch
from google.protobuf import text_format
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import model_config_pb2

from export.publish import onnxruntimes
from export.source.checkpoint import load_checkpoint
from gateway.models.manifest import Manifest, file_sha256, golden_pixels, read_repository
from gateway.models.tokenizer import TextTokenizer, padded
from tests.export.conftest import KINDS
from tests.export.graphs import assert_runs_on_old_runtimes

Exported = Callable[[str], tuple[Manifest, Path]]
TEXTS = ["a photo of a cat", "two small red cars", "bridge", "old stone bridge in the evening"]


def run(root: Path, encoder: str, version: int, batch: NDArray[Any]) -> NDArray[np.float32]:
    path = root / encoder / str(version) / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0])


def unit(features: torch.Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def pictures(count: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_answer_as_open_clip(
    kind: str, exported: Exported, model_of: Callable[[str], str]
) -> None:
    manifest, root = exported(kind)
    checkpoint = load_checkpoint(model_of(kind))
    size = manifest.preprocessing.image_size
    pixels = pictures(3, size)
    with torch.inference_mode():
        batch = torch.stack([checkpoint.transform(Image.fromarray(one)) for one in pixels])
        image = unit(checkpoint.model.encode_image(batch))
        text = unit(checkpoint.model.encode_text(checkpoint.tokenizer(TEXTS)))
    found = run(root, manifest.triton.image.name, manifest.version, pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, image, atol=2e-5)
    tokenizer = TextTokenizer(manifest.tokenizer, root)
    rows = [tokenizer.encode(one).ids for one in TEXTS]
    for encoder in manifest.triton.text:
        fits = [row for row, ids in enumerate(rows) if len(ids) <= encoder.length]
        assert fits
        ids = np.stack([padded(rows[r], encoder.length, manifest.tokenizer.pad_id) for r in fits])
        np.testing.assert_allclose(
            run(root, encoder.name, manifest.version, ids), text[fits], atol=2e-5
        )


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_describes_what_is_there(kind: str, exported: Exported) -> None:
    manifest, root = exported(kind)
    assert read_repository(root) == {manifest.id: manifest}
    assert min(manifest.gate.image.min_cosine, manifest.gate.text.min_cosine) >= 0.9999
    assert {name: file_sha256(root / name) for name in manifest.files} == manifest.files
    encoders = {manifest.triton.image.name, *(encoder.name for encoder in manifest.triton.text)}
    assert {path.name for path in root.iterdir() if path.is_dir()} == encoders
    assert f"{manifest.triton.image.name}/1/model.onnx" in manifest.files
    assert manifest.tokenizer.file in manifest.files
    assert (manifest.logit_bias == -10.0) == kind.startswith("siglip")
    assert manifest.logit_scale == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("kind", KINDS)
def test_old_onnx_runtimes_can_run_it(kind: str, exported: Exported) -> None:
    _, root = exported(kind)
    for path in root.rglob("model.onnx"):
        assert_runs_on_old_runtimes(path)


def test_golden_vectors_are_compared_in_the_runtime_at_hand(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("vit", "siglip"):  # packed, and padded
        shutil.copytree(exported(kind)[1], tmp_path, dirs_exist_ok=True)
    assert onnxruntimes.main(["--repository", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = read_repository(tmp_path).values()
    assert len(lines) == 2 + len(first.triton.text) + len(second.triton.text)
    assert all(line.endswith(": right") for line in lines)
    graph = tmp_path / first.triton.image.name / "1" / "model.onnx"
    (tmp_path / second.triton.image.name / "1" / "model.onnx").write_bytes(graph.read_bytes())
    graph.write_bytes(b"not a graph")
    assert onnxruntimes.main(["--repository", str(tmp_path)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line not in lines]
    assert len(wrong) == 2
    next(tmp_path.glob("*.manifest.json")).write_text("{")
    assert onnxruntimes.main(["--repository", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_golden_vectors_belong_to_the_encoders(kind: str, exported: Exported) -> None:
    manifest, root = exported(kind)
    golden, shortest = manifest.golden, manifest.triton.text[0]
    ids = padded(np.array(golden.token_ids, np.int32), shortest.length, manifest.tokenizer.pad_id)
    text = run(root, shortest.name, manifest.version, ids[None])[0]
    pixels = golden_pixels(manifest.preprocessing.image_size)
    image = run(root, manifest.triton.image.name, manifest.version, pixels[None])[0]
    assert text @ np.array(golden.text_features) > 0.9999
    assert image @ np.array(golden.image_features) > 0.9999


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [("vit", (8, 16, 24)), ("timm", (8, 16, 24)), ("coca", (24,)), ("siglip", (16,)),
     ("hf_text", (16,))],
)  # fmt: skip
def test_short_lengths_only_where_sound(
    kind: str, lengths: tuple[int, ...], exported: Exported
) -> None:
    assert exported(kind)[0].token_lengths == lengths


def test_one_file_serves_all_lengths(exported: Exported) -> None:
    manifest, root = exported("vit")
    files = [root / encoder.name / "1/model.onnx" for encoder in manifest.triton.text]
    assert len({path.stat().st_ino for path in files}) == 1


def test_config_is_what_triton_parses(exported: Exported) -> None:
    manifest, root = exported("vit")
    encoders = [manifest.triton.image.name, *(encoder.name for encoder in manifest.triton.text)]
    for encoder in encoders:
        config = model_config_pb2.ModelConfig()
        text_format.Parse((root / encoder / "config.pbtxt").read_text(), config)
        graph = onnx.load(root / encoder / "1/model.onnx").graph
        assert config.name == encoder
        assert config.backend == "onnxruntime"
        assert config.max_batch_size == 4
        assert [item.name for item in config.input] == [item.name for item in graph.input]
        assert [item.name for item in config.output] == [item.name for item in graph.output]
        for item in (*graph.input, *graph.output):
            assert item.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert list(config.input[0].dims) == [24]
    assert list(config.output[0].dims) == [manifest.embedding_size]


def test_graph_tells_nothing_of_this_machine(exported: Exported) -> None:
    manifest, root = exported("vit")
    content = (root / manifest.triton.image.name / "1/model.onnx").read_bytes()
    assert str(Path(open_clip.__file__).parent).encode() not in content
    assert b"encoders.py" not in content


def test_random_weights_are_the_same_each_time(model_of: Callable[[str], str]) -> None:
    first, second = (load_checkpoint(model_of("vit")) for _ in range(2))
    assert "random weights" in first.notices[0]
    assert first.pretrained is None
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])


def test_folder_brings_preprocessing_and_weights(exported: Exported) -> None:
    manifest, _ = exported("siglip")
    assert manifest.pretrained == "open_clip_model.safetensors"
    assert manifest.preprocessing.resize_mode == "squash"
    assert manifest.preprocessing.mean == (0.5, 0.5, 0.5)
    assert manifest.tokenizer.clean == "canonicalize"
    assert manifest.tokenizer.pad_id == 1
    assert manifest.tokenizer.split_pattern is None
