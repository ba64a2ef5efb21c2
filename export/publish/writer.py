"""Locks a model repository for one writer, and makes temporary folders to prepare models in."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import RepositoryError
from export.publish.leftovers import STAGING, sweep

_LOCK = ".export.lock"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Lock the repository for one writer, and delete the leftovers of a dead one.

    Raises:
        RepositoryError: Another export is running, or the folder cannot be written.
    """
    with _clear_errors(root, "nothing published"):
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / _LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RepositoryError(
                f"{root}: another export is writing here; start again when it has finished"
            ) from error
        with _clear_errors(root, "nothing published"):
            sweep(root)
        yield


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Make a folder to prepare a model in; delete it afterwards with everything unpublished.

    Raises:
        RepositoryError: Writing failed (disk full, no permission); nothing was published.
    """
    try:
        with _clear_errors(root, "nothing published"):
            folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=root))
            yield folder
    finally:
        with _clear_errors(root, "leftovers stay until the next export"):
            sweep(root)


@contextmanager
def _clear_errors(root: Path, outcome: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or root
        raise RepositoryError(f"{where}: {error.strerror or error}; {outcome} in {root}") from error
