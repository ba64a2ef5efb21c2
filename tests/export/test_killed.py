"""An export killed outright, at any moment, leaves a repository in which every model is whole."""

import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import pytest

from gateway.models.manifest import file_sha256, read_repository
from tests.export import models
from tests.forking import Fork

MOMENTS = 10
LIMIT_S = 300.0  # for each export


@pytest.fixture
def export(tmp_path: Path, traces: Path) -> Callable[[], Fork]:
    """Start an export, which may be killed."""
    config = models.write_config(tmp_path, "tiny-vit", models.vit())
    arguments = [str(traces), "export", str(config), "--id", "tiny"]
    arguments += ["--repository", str(tmp_path / "models"), "--report", str(tmp_path / "report")]
    arguments += ["--token-lengths", "12,full", "--max-batch", "2"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # killed ones leave what they have there
    return partial(Fork, "tests.export.traced", *arguments, environment=environment)


def assert_whole(root: Path) -> dict[str, int]:
    """Every published model has its files, and they load; the versions by model id."""
    published = read_repository(root) if list(root.glob("*.manifest.json")) else {}
    for manifest in published.values():
        for name, digest in manifest.files.items():
            assert file_sha256(root / name) == digest
            if name.endswith(".onnx"):
                onnxruntime.InferenceSession(root / name, providers=["CPUExecutionProvider"])
    return {model_id: manifest.version for model_id, manifest in published.items()}


def test_killed_at_ten_random_moments(tmp_path: Path, export: Callable[[], Fork]) -> None:
    root = tmp_path / "models"
    for version in (1, 2):  # the second reads its graphs, as those to be killed do
        start = time.monotonic()
        assert export().wait(LIMIT_S) == 0
        whole = time.monotonic() - start
        versions = assert_whole(root)
        assert versions == {"tiny": version}
    seeded = random.Random(9)
    for _ in range(MOMENTS):
        running = export()
        time.sleep(seeded.uniform(0.2, 1.0) * whole)
        running.kill()
        assert running.wait(LIMIT_S) in (0, -9)
        found = assert_whole(root)
        assert all(found[model_id] >= version for model_id, version in versions.items())
        versions = found
    assert export().wait(LIMIT_S) == 0
    after = assert_whole(root)
    assert all(after[model_id] == version + 1 for model_id, version in versions.items())
    assert not list(root.glob(".staging-*"))
    folders = {path.name for path in root.glob("*/[0-9]*")}
    assert folders == {str(version) for version in after.values()}
