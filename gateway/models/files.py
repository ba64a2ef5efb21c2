"""Files that are read again when they change."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

CHECK_S = 1.0  # how often it is looked whether one has changed

Version = tuple[tuple[int, ...], ...]


def version(paths: Iterable[Path]) -> Version:
    """What differs once a file, or what a link leads to, was written or replaced."""
    return tuple(_version(path) for path in paths)


def read_file(path: Path) -> bytes:
    """What is in a file.

    Raises:
        OSError: It cannot be read; or it is a pipe or a device, which might never end.
    """
    # To open a pipe would wait for who writes to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return stream.read()


def _version(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_dev, found.st_ino
