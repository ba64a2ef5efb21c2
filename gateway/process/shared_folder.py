"""A temporary folder that several processes share, and that outlives none of them for long."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "openclip-metrics-"
NEW_S = 60.0  # so long a folder may be without its lock


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A new folder, removed at the end; those that killed processes have left are removed first.

    Its lock, which the kernel drops with the process, tells that it is in use: others of us, and
    systemd-tmpfiles, which removes what is old, leave it alone.

    Raises:
        OSError: It cannot be made.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_if_left(left)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name,
        _opened(Path(name)) as folder,
    ):
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield Path(name)


def _remove_if_left(path: Path) -> None:
    try:
        with _opened(path) as folder:
            found = os.fstat(folder)
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > NEW_S:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # it is in use, somebody else's, or gone meanwhile


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder
    finally:
        os.close(folder)
