import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from export.errors import RepositoryError
from export.publish import repository, writer
from export.publish.leftovers import manifest_text
from export.publish.repository import find_published
from gateway.models.gate import Agreement, EncoderFigures, Gate, Run, Thresholds
from gateway.models.manifest import (
    Golden,
    ImageEncoder,
    Manifest,
    Preprocessing,
    TextEncoder,
    Tokenizer,
    TritonModels,
    file_sha256,
    read_repository,
)
from tests.export.killing import steps

ID = "m"


def passed_gate() -> Gate:
    encoder = EncoderFigures(1, 1, 1, 0, (Run(None, 1, 1, 1, 1, 1, 0),))
    return Gate(encoder, encoder, Agreement(1, 1, 1), None, None, thresholds=Thresholds(0.9))


def stage(folder: Path, version: int, lengths: tuple[int, ...], batch: int) -> Manifest:
    """A model whose files say which version they are of."""
    encoders = [f"{ID}.image", *(f"{ID}.text-{length}" for length in lengths)]
    for encoder in encoders:
        (folder / encoder / str(version)).mkdir(parents=True)
        (folder / encoder / "config.pbtxt").write_text(f"max_batch_size: {batch}\n")
        (folder / encoder / str(version) / "model.onnx").write_text(f"{encoder} {version}")
    tokenizer = folder / f"{ID}.{version}.tokenizer.json"
    tokenizer.write_text(f"tokenizer {version}")
    files = [*(f"{encoder}/{version}/model.onnx" for encoder in encoders), tokenizer.name]
    return Manifest(
        id=ID,
        version=version,
        fingerprint="0" * 64,
        open_clip_name="x",
        pretrained=None,
        precision="fp32",
        runtime="onnxruntime",
        recipe={},
        embedding_size=2,
        logit_scale=1.0,
        logit_bias=None,
        preprocessing=Preprocessing(
            image_size=8, mean=(0, 0, 0), std=(1, 1, 1), resize_mode="squash",
            interpolation="bicubic",
        ),
        tokenizer=Tokenizer(
            file=tokenizer.name, sha256=file_sha256(tokenizer), clean="lower",
            context_length=lengths[-1], pad_id=0,
        ),
        triton=TritonModels(
            image=ImageEncoder(name=encoders[0], max_batch=batch),
            text=tuple(
                TextEncoder(name=f"{ID}.text-{n}", length=n, max_batch=batch) for n in lengths
            ),
        ),
        golden=Golden(
            token_ids=(1,), text_features=(1, 0), image_features=(1, 0), min_cosine=0.9
        ),
        gate=passed_gate(),
        files={name: file_sha256(folder / name) for name in files},
        created=0,
    )  # fmt: skip


def export(root: Path, lengths: tuple[int, ...] = (4, 8), batch: int = 2) -> Manifest:
    with writer.locked(root):
        version = repository.next_version(root, ID, 8, 2)
        with writer.staging(root) as folder:
            manifest = stage(folder, version, lengths, batch)
            repository.publish(root, folder, manifest)
    return manifest


def assert_served(root: Path, versions: set[int]) -> Manifest:
    """The one published model is whole, and Triton may be sent its largest batch."""
    manifest = read_repository(root)[ID]
    assert manifest.version in versions
    assert {name: file_sha256(root / name) for name in manifest.files} == manifest.files
    image, texts = manifest.triton.image, manifest.triton.text
    batches = {image.name: image.max_batch} | {text.name: text.max_batch for text in texts}
    for encoder, batch in batches.items():
        config = (root / encoder / "config.pbtxt").read_text()
        assert int(config.split()[1]) >= batch
    return manifest


def assert_tidy(root: Path, manifest: Manifest) -> None:
    """Nothing is there but what the manifest names."""
    encoders = {manifest.triton.image.name, *(encoder.name for encoder in manifest.triton.text)}
    files = {f"{ID}.manifest.json", ".export.lock", *manifest.files}
    files |= {f"{encoder}/config.pbtxt" for encoder in encoders}
    folders = encoders | {f"{encoder}/{manifest.version}" for encoder in encoders}
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert found == files | folders


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_first_and_next_version(tmp_path: Path) -> None:
    assert_tidy(tmp_path, export(tmp_path))
    assert_tidy(tmp_path, export(tmp_path))
    assert_served(tmp_path, {2})


def test_lengths_that_are_no_longer_served_go(tmp_path: Path) -> None:
    export(tmp_path, (2, 4, 8))
    export(tmp_path, (6, 8))
    assert_tidy(tmp_path, assert_served(tmp_path, {2}))
    assert not (tmp_path / f"{ID}.text-2").exists()


@pytest.mark.parametrize(("old", "new"), [(2, 2), (2, 8), (8, 2)])
@pytest.mark.parametrize("lengths", [(4, 8), (8,), (2, 4, 8)])
def test_a_crash_at_any_step_leaves_a_whole_model(
    old: int, new: int, lengths: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(100):
        root = tmp_path / str(step)
        export(root, (4, 8), old)
        killed = steps(partial(export, root, lengths, new), monkeypatch, step)
        version = assert_served(root, {1, 2}).version
        assert_tidy(root, export(root, lengths, old))
        assert_served(root, {version + 1})
        if not killed:
            break
    assert step > 6
    assert version == 2


def test_a_crash_of_the_first_export_leaves_nothing_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(100):
        root = tmp_path / str(step)
        killed = steps(partial(export, root), monkeypatch, step)
        assert not killed or list(root.glob("*.manifest.json")) == [] or assert_served(root, {1})
        assert_tidy(root, export(root))
        if not killed:
            break
    assert step > 6


def test_a_crash_while_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(100):
        root = tmp_path / str(step)
        export(root)
        killed = steps(partial(repository.remove, root, ID), monkeypatch, step)
        if list(root.glob("*.manifest.json")):
            assert_served(root, {1})
        assert_tidy(root, export(root))
        if not killed:
            break
    assert step > 3


def test_a_failure_at_any_step_is_cleared_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = export(tmp_path)
    real, calls = Path.rename, 0
    for step in range(4):
        calls = 0

        def full(self: Path, target: Path, step: int = step) -> Path:
            nonlocal calls
            calls += 1
            if calls > step:
                raise OSError(28, "No space left on device", str(self))
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", full)
            with pytest.raises(RepositoryError, match=r"No space left on device; nothing publis"):
                export(tmp_path)
        assert_tidy(tmp_path, old)


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    export(tmp_path)
    script = (
        "import os, signal, sys; from pathlib import Path; from export.publish import writer\n"
        "with writer.locked(Path(sys.argv[1])), writer.staging(Path(sys.argv[1])) as s:\n"
        "    (s / 'big').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False, timeout=60)
    assert done.returncode == -9
    assert list(tmp_path.glob(".staging-*"))
    assert_served(tmp_path, {1})
    assert_tidy(tmp_path, export(tmp_path))


def test_two_exports_do_not_mix(tmp_path: Path) -> None:
    with writer.locked(tmp_path), pytest.raises(RepositoryError, match="another export"):
        export(tmp_path)


def test_other_inputs_or_outputs_are_refused(tmp_path: Path) -> None:
    export(tmp_path)
    for image_size, embedding_size in ((16, 2), (8, 4)):
        with pytest.raises(RepositoryError, match=r"choose another --id.*--remove m"):
            repository.next_version(tmp_path, ID, image_size, embedding_size)


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / f"{ID}.image" / "1"
    foreign.mkdir(parents=True)
    with pytest.raises(RepositoryError, match="in the way"):
        export(tmp_path)
    assert foreign.is_dir()
    assert not list(tmp_path.glob("*.manifest.json"))


def test_removed_model_is_gone(tmp_path: Path) -> None:
    export(tmp_path)
    other = tmp_path / "ensemble" / "1"
    other.mkdir(parents=True)
    repository.remove(tmp_path, ID)
    assert {path.name for path in tmp_path.iterdir()} == {".export.lock", "ensemble"}
    with pytest.raises(RepositoryError, match="no model 'm' is published here; there is none"):
        repository.remove(tmp_path, ID)


def test_a_broken_manifest_stops_clearing(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "other.manifest.json").write_text("{")
    (tmp_path / ".staging-dead").mkdir()
    with pytest.raises(RepositoryError, match=r"other\.manifest\.json"):
        export(tmp_path)
    (tmp_path / "other.manifest.json").unlink()
    assert_served(tmp_path, {1})


def test_a_repository_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match=r"file.*; nothing published"):
        export(tmp_path / "file" / "repository")


@pytest.mark.parametrize(
    ("model", "pretrained", "name", "weights"),
    [
        ("ViT-B-32", "openai", "ViT-B-32", "openai"),
        ("ViT-B/32", None, "ViT-B-32", None),
        ("configs/tiny.json", "best.pt", "tiny", "best.pt"),
        ("RN50", "{folder}/best.pt", "RN50", "best.pt"),
        ("hf-hub:org/name", None, "org/name", "org/name"),
        ("local-dir:{folder}", None, "clip", "open_clip_model.safetensors"),
        ("{folder}", None, "clip", "open_clip_model.safetensors"),
        ("{folder}/open_clip_config.json", None, "clip", "open_clip_model.safetensors"),
    ],
)
def test_what_is_published_is_found_by_what_it_was_exported_from(
    tmp_path: Path, model: str, pretrained: str | None, name: str, weights: str | None
) -> None:
    folder, root = tmp_path / "clip", tmp_path / "repository"
    folder.mkdir()
    (folder / "best.pt").touch()
    model, pretrained = model.format(folder=folder), pretrained and pretrained.format(folder=folder)
    staged = stage(root, 1, (16,), 4)

    def publish(**changes: Any) -> None:
        manifest = staged.model_copy(update=changes)
        (root / f"{manifest.id}.manifest.json").write_text(manifest_text(manifest))

    assert find_published(root, model, pretrained, ["fp32"]) == [None]
    publish(id="other", open_clip_name=name, pretrained="another")
    publish(id="mine", open_clip_name=name, pretrained=weights, created=1)
    publish(id="newer", open_clip_name=name, pretrained=weights, created=2)
    publish(id="small", open_clip_name=name, pretrained=weights, precision="int8")
    found = find_published(root, model, pretrained, ["int8", "fp32", "fp16"])
    assert found == ["small", "newer", None]
    assert find_published(root, "ViT-L-14", "openai", ["fp32"]) == [None]
