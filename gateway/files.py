"""Files that are read again when they change."""

from collections.abc import Iterable
from pathlib import Path

CHECK_S = 1.0  # how often it is looked whether one has changed

Version = tuple[tuple[int, ...], ...]


def version(paths: Iterable[Path]) -> Version:
    """What differs once a file, or what a link leads to, was written or replaced."""
    return tuple(_version(path) for path in paths)


def _version(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_dev, stat.st_ino
