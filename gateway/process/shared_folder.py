"""A temporary folder for the metrics of several processes, removed even if they are killed."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "openclip-metrics-"
NEW_S = 60.0  # a younger folder may not have its lock yet


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Make a folder, and remove it at the end; first remove those that killed processes left.

    A lock, which the kernel releases with the process, marks the folder as in use. Other gateways
    and systemd-tmpfiles, which removes old files, leave a locked folder alone.

    Raises:
        OSError: The folder cannot be made.
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
    # It fails on a folder that is in use, another user's, or gone.
    with suppress(OSError), _opened(path) as folder:
        found = os.fstat(folder)
        if found.st_uid == os.getuid() and time.time() - found.st_mtime > NEW_S:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield folder
    finally:
        os.close(folder)
