"""Writes files so that they survive a crash of the machine, complete or not at all."""

import os
import shutil
from pathlib import Path


def write(staged: Path, path: Path, text: str) -> None:
    """Write a file atomically; `staged` is a folder on the same file system."""
    written = staged / path.name
    written.write_text(text)
    sync(written)
    sync(path.parent)  # what the file refers to must exist first
    written.replace(path)
    sync(path.parent)


def link(source: Path, path: Path) -> None:
    """Link a file to another name, or copy it where there are no hard links."""
    try:
        path.hardlink_to(source)
    except OSError:  # a full disk fails the copy as well
        shutil.copyfile(source, path)


def sync_tree(folder: Path) -> None:
    """Sync a folder and everything in it to disk."""
    for path in (folder, *folder.rglob("*")):
        sync(path)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
