"""The folder of several processes: what killed ones have left is removed, and nothing else."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from gateway.process.shared_folder import NEW_S, PREFIX, shared_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(temporary: Path, name: str, age_s: float = 2 * NEW_S) -> Path:
    """A folder of another process."""
    folder = temporary / f"{PREFIX}{name}"
    folder.mkdir()
    (folder / "counter.db").write_bytes(b"1")
    begun = folder.stat().st_mtime - age_s
    os.utime(folder, (begun, begun))
    return folder


def test_it_is_gone_at_the_end() -> None:
    with shared_folder() as folder:
        (folder / "counter.db").write_bytes(b"1")
    assert not folder.exists()


def test_one_that_was_removed_is_no_fault() -> None:
    with shared_folder() as folder:
        folder.rmdir()


def test_what_a_killed_process_left_is_removed(temporary: Path) -> None:
    old, young, foreign = left(temporary, "a"), left(temporary, "b", 0), temporary / "other"
    foreign.mkdir()
    with shared_folder():
        assert not old.exists()
        assert young.exists()  # its lock may be about to be taken
        assert foreign.exists()


def test_what_is_in_use_stays(temporary: Path) -> None:
    used = left(temporary, "a")
    held = os.open(used, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with shared_folder():
            assert (used / "counter.db").exists()
    finally:
        os.close(held)


def test_it_is_locked_itself() -> None:
    with shared_folder() as folder:
        other = os.open(folder, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(other)


def test_links_are_not_followed(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").write_text("kept")
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    with shared_folder():
        assert (elsewhere / "kept").exists()
