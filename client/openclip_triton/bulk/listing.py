"""Lists images below folders, by name."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openclip_triton.bulk.samples import problem_of

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to embed."""

    path: str
    stamp: str  # size and time of the last change
    problem: str = ""  # reason why it cannot be embedded


@dataclass(slots=True)
class Listing:
    """Lists files in the order given, and images below folders, sorted by name in each folder.

    Args:
        paths: Files and folders. Files may have any extension.
        extensions: Extensions of the images below folders, in any case.
        companions: Endings of files that lie next to images: not listed, not passed over.
    """

    paths: Iterable[str]
    extensions: Iterable[str]
    companions: tuple[str, ...] = ()
    passed_over: int = 0  # files of another extension

    def entries(self) -> Iterator[Entry]:
        """List the files; one that cannot be embedded is an entry with a problem."""
        endings = tuple("." + extension.lower().lstrip(".") for extension in self.extensions)
        self.passed_over = 0
        for path in self.paths:
            if os.path.isdir(path):  # noqa: PTH112 - lists of millions: no Path for each
                yield from self._below(path, endings)
            else:
                yield _entry(path)

    def _below(self, folder: str, endings: tuple[str, ...]) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as scan:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan)
        except OSError as error:
            yield Entry(folder, "", f"the folder cannot be read: {error.strerror}")
            return
        for name, is_folder in found:
            if is_folder:
                yield from self._below(str(Path(folder, name)), endings)
            elif name.lower().endswith(endings):
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
    if not os.path.isfile(path):  # noqa: PTH113
        return Entry(path, "", "not a regular file")
    return Entry(path, f"{status.st_size}:{status.st_mtime_ns}")
