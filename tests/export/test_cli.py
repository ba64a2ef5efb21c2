import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import onnx
import pytest
import torch
from huggingface_hub import constants
from onnx import numpy_helper
from PIL import Image

from export.__main__ import main
from export.command.pipeline import default_id
from export.command.summary import how_to_serve
from export.errors import brief
from export.precision import half
from export.source import graph
from export.source.checkpoint import load_checkpoint
from gateway.models.manifest import Manifest, file_sha256, read_repository
from tests.export import models

Exported = Callable[[str], tuple[Manifest, Path]]


@pytest.fixture
def repository(tmp_path: Path, exported: Exported) -> Path:
    """A repository with one small model, `tiny-vit`, of random weights."""
    return Path(shutil.copytree(exported("vit")[1], tmp_path / "repository"))


@pytest.fixture
def vit(shelf: Path) -> Path:
    return models.write_config(shelf, "tiny-vit", models.vit())


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run the command line, which must end with one line on standard error."""

    def run(*arguments: object, code: int = 1, root: Path = tmp_path / "none") -> str:
        places = ["--repository", str(root), "--report", str(tmp_path / "report")]
        assert main([*map(str, arguments), *places]) == code
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("[")]
        assert len(lines) == 1, err
        assert not out or code == 2  # what was measured of the refused
        assert "Traceback" not in err
        assert not list(root.glob("*.manifest.json")) or root != tmp_path / "none"
        return lines[0]

    return run


@pytest.fixture(params=["closed port", "offline mode"])
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub cannot be reached; whoever waits to try again fails the test."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s for the network")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        if request.param == "closed port":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            address = f"http://127.0.0.1:{closed.getsockname()[1]}"
            monkeypatch.setattr(constants, "ENDPOINT", address)
        else:
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(time, "sleep", refuse)
        before = constants.HF_HUB_OFFLINE
        yield
        assert before == constants.HF_HUB_OFFLINE


def snapshot(root: Path) -> dict[str, str]:
    return {str(path): file_sha256(path) for path in root.rglob("*") if path.is_file()}


def test_publishes_a_checkpoint_and_says_so(
    tmp_path: Path, vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = models.save_weights(tmp_path / "step_9.safetensors", vit, seed=3, half=True)
    root = tmp_path / "repository"
    arguments = [str(vit), "--pretrained", str(weights), "--repository", str(root), "--compact"]
    arguments += ["--max-batch", "2", "--token-lengths", "12,full", "--threads", "1"]
    arguments += ["--report", str(tmp_path / "report")]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    manifest = read_repository(root)["tiny-vit.step_9"]
    assert "random weights" not in err
    assert re.search(r"\[ +\d+\.\d s\] tracing the image encoder", err)
    for shown in (manifest.id, str(root), manifest.fingerprint, "12, 24 tokens"):
        assert shown in out
    served = f"make run MODEL_REPOSITORY={root}; a running service loads it by itself"
    assert out.endswith(f"serve it     {served}\n")
    assert manifest.pretrained == "step_9.safetensors"
    config = (root / "tiny-vit.step_9.image" / "config.pbtxt").read_text()
    assert "intra_op_thread_count" in config
    text = root / "tiny-vit.step_9.text-24" / "1" / "model.onnx"
    assert text.stat().st_size < 0.6 * 49408 * 32 * 4
    assert min(manifest.gate.image.min_cosine, manifest.gate.text.min_cosine) > 0.9999


def test_broken_encoder_is_refused(
    repository: Path, vit: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(proto: onnx.ModelProto) -> onnx.ModelProto:
        spoilt = deepcopy(proto)
        for tensor in spoilt.graph.initializer:
            if tensor.name.endswith("visual.proj"):
                values = numpy_helper.to_array(tensor).copy()
                values[:, 0] = 3
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return spoilt

    before = snapshot(repository)
    monkeypatch.setattr(half, "compact", spoil)
    line = fails(vit, "--compact", "--max-batch", 4, code=2, root=repository)
    found = re.search(
        r"image encoder's lowest cosine .* is ([\d.]+), ([\d.]+) short of 0.99999", line
    )
    assert found
    assert float(found[1]) + float(found[2]) == pytest.approx(0.99999, abs=1e-3)
    assert snapshot(repository) == before


def test_full_disk_leaves_the_old_version(
    repository: Path, vit: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "model.onnx")

    before = snapshot(repository)
    monkeypatch.setattr(graph, "save", full)
    line = fails(vit, "--max-batch", 4, root=repository)
    assert "No space left on device; nothing published" in line
    assert snapshot(repository) == before
    assert not list(repository.glob(".staging-*"))


def test_a_token_length_over_the_context_is_refused(
    repository: Path, vit: Path, fails: Callable[..., str]
) -> None:
    line = fails(vit, "--token-lengths", "12,25", root=repository)
    assert "--token-lengths 25" in line
    assert "takes texts of at most 24 tokens" in line


def test_other_size_under_the_same_id_is_refused(
    repository: Path, shelf: Path, fails: Callable[..., str]
) -> None:
    wide = models.write_config(shelf, "tiny-wide", {**models.vit(), "embed_dim": 40})
    line = fails(wide, "--id", "tiny-vit", root=repository)
    assert "vectors of 32, but this model has 32 and 40; choose another --id" in line


def test_remove(repository: Path, fails: Callable[..., str]) -> None:
    assert main(["--remove", "tiny-vit", "--repository", str(repository)]) == 0
    assert [path.name for path in repository.iterdir()] == [".export.lock"]


def test_remove_several(tmp_path: Path, repository: Path, fails: Callable[..., str]) -> None:
    root = tmp_path / "two"
    for model_id in ("a", "b"):
        manifest = read_repository(repository)["tiny-vit"]
        root.mkdir(exist_ok=True)
        text = manifest.model_copy(update={"id": model_id}).model_dump_json()
        (root / f"{model_id}.manifest.json").write_text(text)
    before = snapshot(root)
    line = fails("--remove", "a", "--remove", "c", root=root)
    assert "no model 'c' is published here; there is a, b; nothing removed" in line
    assert before.items() <= snapshot(root).items()
    assert main(["--remove", "a", "--remove", "b", "--repository", str(root)]) == 0
    assert not list(root.glob("*.manifest.json"))


def test_how_to_serve(tmp_path: Path) -> None:
    takes_up = "; a running service loads it by itself\n"
    assert how_to_serve(Path("model_repository")) == f"serve it     make run{takes_up}"
    elsewhere = how_to_serve(tmp_path / "my models")
    assert f"make run MODEL_REPOSITORY='{tmp_path}/my models'{takes_up}" in elsewhere


def test_brief_ends_at_a_word() -> None:
    assert brief(OSError("short\n\n  two  ")) == "short; two"
    assert brief(KeyError()) == "KeyError"
    found = brief(OSError("word " * 100), 160)
    assert re.fullmatch(r"(word )+word\.\.\.", found)
    assert 150 < len(found) <= 160
    assert brief(OSError("x" * 500), 20) == "x" * 17 + "..."


def test_unknown_name(fails: Callable[..., str]) -> None:
    assert "did you mean ViT-B-32" in fails("ViT-B32")
    line = fails("qqqqqqq")
    assert "no model of that name" in line
    assert "`make export ARGS=--list`" in line


def test_unknown_tag(fails: Callable[..., str]) -> None:
    line = fails("ViT-B-32", "--pretrained", "laion99")
    assert "neither a tag nor a file" in line
    assert "laion2b_s34b_b79k" in line


def test_checkpoint_of_another_architecture(
    tmp_path: Path, vit: Path, shelf: Path, fails: Callable[..., str]
) -> None:
    weights = models.save_weights(tmp_path / "w.safetensors", vit, seed=1)
    deeper = models.vit()
    deeper["vision_cfg"] = {**models.VIT, "layers": 3}
    line = fails(models.write_config(shelf, "tiny-deep", deeper), "--pretrained", weights)
    assert "w.safetensors: cannot be loaded into tiny-deep" in line
    assert "visual.transformer.resblocks.2" in line


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.bin"])
def test_unreadable_checkpoint(
    name: str, tmp_path: Path, vit: Path, fails: Callable[..., str]
) -> None:
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    assert f"{name}: cannot be loaded" in fails(vit, "--pretrained", tmp_path / name)


def test_picture_that_is_not_square(shelf: Path, fails: Callable[..., str]) -> None:
    config = models.vit()
    config["vision_cfg"] = {**models.VIT, "image_size": [32, 64]}
    line = fails(models.write_config(shelf, "tiny-oblong", config))
    assert "64 x 32 pixels; only square ones" in line


def test_bad_configurations(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "a.json").write_text("{")
    assert "cannot be read as JSON" in fails(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"embed_dim": 3}')
    assert "vision_cfg, text_cfg missing" in fails(tmp_path / "b.json")
    assert "cannot be read" in fails(tmp_path / "missing.json")
    assert "no such folder" in fails("local-dir:/nowhere/at/all")
    (tmp_path / "folder").mkdir()
    assert "open_clip_config.json" in fails(tmp_path / "folder")


def test_folder_without_weights(tmp_path: Path, vit: Path, fails: Callable[..., str]) -> None:
    folder = models.save_folder(tmp_path / "folder", vit, {})
    (folder / "open_clip_model.safetensors").unlink()
    assert "holds no checkpoint" in fails(folder)
    assert "brings its own weights" in fails(f"local-dir:{folder}", "--pretrained", "x")


def test_bad_options(vit: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    assert "an id matches" in fails(vit, "--id", "no/slashes")
    (tmp_path / "x.png").write_bytes(b"no picture")
    assert "x.png: not a picture" in fails(vit, "--samples", tmp_path / "x.png")
    assert "needs no folder" in fails(vit, "--tokenizer", tmp_path)
    assert "needs no folder" in fails(vit, "--text-config", tmp_path)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_few_samples_for_int8_are_said_before_the_work(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    options = ["--calibrate-images", str(tmp_path), "--calibrate-texts"]
    options += [str(tmp_path / "texts.txt"), "--precision", precision, "--id", "no/slashes"]
    assert main([str(vit), *options, "--repository", str(tmp_path / "none")]) == 1
    assert ("(pictures: 1, captions: 2)" in capsys.readouterr().err) == (precision == "int8")


@pytest.mark.usefixtures("no_network")
def test_no_network(fails: Callable[..., str], shelf: Path) -> None:
    line = fails("ViT-B-32", "--pretrained", "laion2b_s34b_b79k")
    assert "--pretrained FILE" in line
    assert "local-dir:" in line
    config = models.siglip("nobody/has-such-a-tokenizer")
    assert "--tokenizer DIR" in fails(models.write_config(shelf, "tiny-far", config))
    assert "local-dir:/FOLDER" in fails("hf-hub:nobody/has-such-a-model")
    config = models.hf_text("nobody/has-such-a-text-encoder")
    config["text_cfg"].pop("hf_tokenizer_name")
    assert "--text-config DIR" in fails(models.write_config(shelf, "tiny-far-text", config))


@pytest.mark.usefixtures("no_network")
def test_local_tokenizer_needs_no_network(shelf: Path, tmp_path: Path) -> None:
    folder = models.save_tokenizer(tmp_path / "tokenizer")
    config = models.write_config(shelf, "tiny-near", models.siglip("nobody/has-such-a-tokenizer"))
    arguments = [str(config), "--tokenizer", str(folder), "--max-batch", "1"]
    places = ["--repository", str(tmp_path / "r"), "--report", str(tmp_path / "report")]
    assert main([*arguments, *places]) == 0
    assert read_repository(tmp_path / "r")["tiny-near"].logit_bias == -10.0


@pytest.mark.usefixtures("no_network")
def test_local_text_config_needs_no_network(shelf: Path, tmp_path: Path) -> None:
    folder = models.save_hf_text(tmp_path / "bert")
    here = load_checkpoint(
        str(models.write_config(shelf, "tiny-here-text", models.hf_text(str(folder))))
    )
    config = models.write_config(shelf, "tiny-near-text", models.hf_text("nobody/has-such-an-one"))
    near = load_checkpoint(str(config), tokenizer=folder, text_config=folder)
    ids = near.tokenizer(["a red circle"])
    assert torch.equal(near.model.encode_text(ids), here.model.encode_text(ids))


def test_default_id() -> None:
    assert default_id("ViT-B-32", None) == "ViT-B-32"
    assert default_id("ViT-B-32", "laion2b_s34b_b79k") == "ViT-B-32.laion2b_s34b_b79k"
    assert default_id("RN50", "epoch 3 (best).pt") == "RN50.epoch-3-best-"
    assert default_id("org/model", "org/model") == "org-model"


@pytest.mark.parametrize(
    "arguments",
    [[], ["RN50", "--remove", "x"], ["RN50", "--max-batch", "0"], ["RN50", "--min-cosine", "2"],
     ["RN50", "--token-lengths", "8,x"], ["RN50", "--token-lengths", "1"]],
)  # fmt: skip
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    assert "error:" in capsys.readouterr().err
