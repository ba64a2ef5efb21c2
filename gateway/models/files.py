"""Versions of files, to notice that one has changed, and safe reading."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

CHECK_S = 1.0  # between two checks whether a file has changed

Version = tuple[tuple[int, ...], ...]


def version(paths: Iterable[Path]) -> Version:
    """Differs after a file, or the target of a link, was written or replaced."""
    return tuple(_version(path) for path in paths)


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: It cannot be read, or is no regular file: a pipe or a device might never end.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its writer.
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
