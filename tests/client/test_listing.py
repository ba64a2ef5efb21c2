"""Which files a run takes, in which order, and what becomes of the others."""

import os
from pathlib import Path

import pytest
from openclip_triton.bulk.listing import Listing


def listed(paths: list[Path]) -> Listing:
    return Listing([str(path) for path in paths])


def keys(found: Listing) -> list[str]:
    return [entry.path for entry in found.entries()]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_images_below_folders_are_sorted_by_name(tmp_path: Path) -> None:
    make(tmp_path, "b/2.png", "b/10.png", "a.JPG", "c.webp", "b/deep/er.tiff", "notes.txt", "png")
    found = listed([tmp_path])
    names = ["a.JPG", "b/10.png", "b/2.png", "b/deep/er.tiff", "c.webp"]
    assert keys(found) == [str(tmp_path / name) for name in names]
    assert found.passed_over == 2


def test_files_that_are_named_are_taken_whatever_they_are_called(tmp_path: Path) -> None:
    make(tmp_path, "picture", "a.png")
    found = listed([tmp_path / "picture", tmp_path / "a.png"])
    assert keys(found) == [str(tmp_path / "picture"), str(tmp_path / "a.png")]


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    [before] = listed([tmp_path]).entries()
    os.utime(tmp_path / "a.png", ns=(1, 1))
    [after] = listed([tmp_path]).entries()
    assert before.stamp != after.stamp == "1:1"


def test_what_cannot_be_taken_is_a_problem_and_not_left_out(tmp_path: Path) -> None:
    make(tmp_path, "line\nbreak.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"x")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    found = listed([tmp_path])
    reasons = {Path(entry.path).name: entry.problem for entry in found.entries()}
    assert len(reasons) == 4
    assert reasons["dangling.png"] == "No such file or directory"
    assert reasons["pipe.png"] == "not a regular file"
    assert "line break" in reasons["line\nbreak.png"]
    assert "not UTF-8" in reasons["\udcff.png"]


def test_a_name_with_a_null_byte_is_a_problem() -> None:
    [entry] = Listing(["a\0.png"]).entries()
    assert "null" in entry.problem


def test_a_folder_that_cannot_be_read_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = listed([tmp_path])
    assert keys(found) == [str(tmp_path / "a"), str(tmp_path / "b/2.png")]
    problems = {entry.path: entry.problem for entry in found.entries() if entry.problem}
    assert problems == {str(tmp_path / "a"): "the folder cannot be read: Permission denied"}


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    found = listed([tmp_path])
    assert keys(found) == [str(tmp_path / "a/1.png")]
