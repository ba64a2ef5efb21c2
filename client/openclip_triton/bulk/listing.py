"""Lists what a run embeds: the images below folders, or the lines of a text."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")


@dataclass(frozen=True, slots=True)
class Entry:
    """An item to embed."""

    key: str  # the path of an image, or a text
    stamp: str  # changes when the content does


@dataclass(slots=True)
class Listing:
    """Entries in order, and the problems found; complete once `entries` is consumed."""

    entries: Iterable[Entry] = ()
    problems: dict[str, str] = field(
        default_factory=dict
    )  # key of an entry -> why it cannot be embedded
    passed_over: int = 0  # files without an image extension


def images(paths: Sequence[Path], extensions: Sequence[str]) -> Listing:
    """List files in the order given, and images below folders, sorted by name in each folder.

    Args:
        paths: Files and folders. Files may have any extension.
        extensions: Extensions of the images below folders, in any case.
    """
    listing = Listing()
    endings = tuple("." + extension.lower().lstrip(".") for extension in extensions)

    def entries() -> Iterator[Entry]:
        for path in paths:
            if path.is_dir():
                yield from _below(path, endings, listing)
            else:
                yield _entry(str(path), listing)

    listing.entries = entries()
    return listing


def lines(source: Iterable[str]) -> Listing:
    """List one entry for each line."""
    return Listing(Entry(line.rstrip("\r\n"), "") for line in source)


def _below(folder: Path, endings: tuple[str, ...], listing: Listing) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        yield _problem(str(folder), f"the folder cannot be read: {error.strerror}", listing)
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), endings, listing)
        elif entry.name.lower().endswith(endings):
            yield _entry(entry.path, listing)
        else:
            listing.passed_over += 1


def _entry(path: str, listing: Listing) -> Entry:
    # Text files and parquet take one name a line.
    if any(mark in path for mark in "\r\n"):
        return _problem(path, "the name contains a line break; rename the file", listing)
    try:
        path.encode()
    except UnicodeEncodeError:
        return _problem(path, "the name is not UTF-8; rename the file", listing)
    try:
        status = os.stat(path)  # noqa: PTH116 - millions of files: no Path for each
    except OSError as error:
        return _problem(path, f"{error.strerror}", listing)
    if not os.path.isfile(path):  # noqa: PTH113
        return _problem(path, "not a regular file", listing)
    return Entry(path, f"{status.st_size}:{status.st_mtime_ns}")


def _problem(path: str, reason: str, listing: Listing) -> Entry:
    listing.problems[path] = reason
    return Entry(path, "")
