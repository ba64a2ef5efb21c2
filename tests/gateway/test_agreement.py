"""What processes agree on: the ids and fingerprints of what they serve."""

import shutil
from pathlib import Path

import pytest

from gateway.models.manifest import Manifest, read_manifest
from gateway.process.agreement import Agreement
from tests.conftest import REPOSITORY

DEMO = read_manifest(REPOSITORY / "demo.manifest.json")


def named(name: str, fingerprint: str = DEMO.fingerprint) -> Manifest:
    return DEMO.model_copy(update={"id": name, "fingerprint": fingerprint})


def test_whoever_comes_first_is_free(tmp_path: Path) -> None:
    agreement = Agreement(tmp_path)
    assert agreement.differs([DEMO]) == []
    agreement.write([DEMO])
    agreement.end()
    assert agreement.differs([named("demo", "f" * 64)]) == []
    agreement.end()


def test_what_differs_is_named(tmp_path: Path) -> None:
    Agreement(tmp_path).write([named("a"), named("b"), named("c")])
    other = Agreement(tmp_path)
    assert other.differs([named("c"), named("b"), named("a")]) == []
    assert other.differs([named("a"), named("b", "f" * 64), named("d")]) == ["b", "c", "d"]
    other.write([named("d")])
    assert other.differs([named("d")]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["served.json"]


def test_a_folder_that_is_gone_is_made_again_or_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "shared"
    agreement = Agreement(folder)
    agreement.write([DEMO])
    shutil.rmtree(folder)
    assert agreement.differs([DEMO]) == []
    agreement.write([DEMO])
    assert (folder / "served.json").exists()
    shutil.rmtree(folder)
    folder.write_text("no folder")
    agreement.write([DEMO])
    assert "cannot be written" in caplog.text
