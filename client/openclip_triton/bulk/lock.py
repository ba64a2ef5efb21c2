"""Keeps two runs from writing the same output at once, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openclip_triton.bulk.errors import JobError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be replaced anyway
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file locked; the system frees it when the process ends, however it ends.

    Raises:
        JobError: Another run holds it.
    """
    with path.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JobError("another run is writing the same output") from error
        yield
