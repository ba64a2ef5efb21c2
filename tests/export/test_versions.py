"""`python -m export --version N` adds a version beside the one before."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export import versions
from export.__main__ import main
from gateway.models.manifest import Manifest, read_repository
from tests.export import models


def test_a_version_is_added_beside_the_one_before(
    tmp_path: Path,
    shelf: Path,
    exported: Callable[[str], tuple[Manifest, Path]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = Path(shutil.copytree(exported("vit")[1], tmp_path / "repository"))
    [old] = read_repository(root).values()
    vit = models.write_config(shelf, "tiny-vit", models.vit())
    weights = models.save_weights(tmp_path / "step_9.safetensors", vit, seed=3)
    batch = old.triton.image.max_batch
    arguments = [str(vit), "--pretrained", str(weights), "--repository", str(root)]
    arguments += ["--id", old.id, "--token-lengths", "8,16", "--version", "7"]
    arguments += ["--report", str(tmp_path / "report")]
    assert main([*arguments, "--max-batch", str(batch + 1)]) == 1
    assert f"give --max-batch {batch}" in capsys.readouterr().err
    assert read_repository(root)[old.id] == old
    assert main([*arguments, "--max-batch", str(batch)]) == 0
    new = read_repository(root)[old.id]
    assert new.version == 7
    assert new.fingerprint != old.fingerprint
    assert versions.versions(root, old.id) == (new, [old])
    for version in (old.version, 7):
        assert (root / new.triton.image.name / str(version) / "model.onnx").is_file()
    assert main([*arguments, "--max-batch", str(batch)]) == 1
    assert "there is a version 7 already" in capsys.readouterr().err
    versions.use(root, old.id, old.version)
    assert read_repository(root)[old.id] == old
