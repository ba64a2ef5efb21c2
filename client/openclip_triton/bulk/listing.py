"""Lists images below folders, by name."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openclip_triton.bulk.samples import problem_of

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
ENDINGS = tuple(f".{extension}" for extension in EXTENSIONS)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to embed."""

    path: str
    stamp: str  # size and time of the last change
    problem: str = ""  # reason why it cannot be embedded


@dataclass(slots=True)
class Listing:
    """Lists files in the order given, and images below folders, sorted by name in each folder."""

    paths: Iterable[str]  # files, whatever their extension, and folders
    endings: tuple[str, ...] = ENDINGS  # of the images below folders, in lower case
    companions: tuple[str, ...] = ()  # endings of files next to them: not listed, not passed over
    passed_over: int = 0  # files of another extension

    def entries(self) -> Iterator[Entry]:
        """List the files; one that cannot be embedded is an entry with a problem."""
        self.passed_over = 0
        for path in self.paths:
            if os.path.isdir(path):  # noqa: PTH112 - lists of millions: no Path for each
                yield from self._below(path)
            else:
                yield _entry(path)

    def _below(self, folder: str) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as scan:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan)
        except OSError as error:
            yield Entry(folder, "", f"the folder cannot be read: {error.strerror}")
            return
        for name, is_folder in found:
            if is_folder:
                yield from self._below(str(Path(folder, name)))
            elif name.lower().endswith(self.endings):
                yield _entry(str(Path(folder, name)))
            elif not name.lower().endswith(self.companions):
                self.passed_over += 1


def _entry(path: str) -> Entry:
    if problem := problem_of(path):
        return Entry(path, "", problem.reason)
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return Entry(path, "", f"{error.strerror}")
    except ValueError as error:  # the name holds a null byte
        return Entry(path, "", str(error))
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, "", "not a regular file")
    return Entry(path, f"{status.st_size}:{status.st_mtime_ns}")
