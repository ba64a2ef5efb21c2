"""Writing that a crash of the machine cannot undo by halves."""

import os
from collections.abc import Iterable
from pathlib import Path


def write(staged: Path, path: Path, text: str) -> None:
    """Writes a file whole or not at all; `staged` is a folder on the same file system."""
    written = staged / path.name
    written.write_text(text)
    sync(written)
    sync(path.parent)  # what the file speaks of is there before it is
    written.replace(path)
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Makes a folder and all in it durable."""
    for path in (folder, *folder.rglob("*")):
        sync(path)


def sync_folders(root: Path, names: Iterable[str]) -> None:
    """Makes the entries of some folders durable."""
    for name in names:
        sync(root / name)


def sync(path: Path) -> None:
    """Makes a file, or the entries of a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
