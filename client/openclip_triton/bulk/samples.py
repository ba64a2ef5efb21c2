"""The samples of a job, and the partitions that they are cut into."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """One half of an output: its images or its texts."""

    noun: str
    companion: str  # ending of the list next to an .npy file
    column: str  # of a parquet file with vectors
    folder: str  # of the vectors, where clip-retrieval looks for them
    folder_column: str  # of its metadata


IMAGES = Kind("image", ".paths.txt", "path", "img_emb", "image_path")
TEXTS = Kind("text", ".texts.txt", "text", "text_emb", "caption")
KINDS = (IMAGES, TEXTS)


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason why a sample cannot be embedded."""

    code: str
    reason: str
    retry: bool = False  # whether a later run may succeed


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a partition; a half that the job does not embed is None."""

    key: str
    image: bytes | Path | str | None = None  # a str is a URL, until the sample is yielded
    text: str | None = None
    metadata: str | None = None  # a JSON object
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A partition without its samples."""

    source: str  # its name: equal in every run over the same input
    version: str  # changes with the content
    count: int | None  # number of samples; None: known only once they are read


@dataclass(frozen=True, slots=True)
class Partition(Source, ABC):
    """A part of the input that becomes one part of the output; can be pickled."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """Read the samples, in order.

        Raises:
            OSError: The rest of the input cannot be read.
        """


class Input(ABC):
    """An input that is cut into the same partitions each time."""

    passed_over = 0  # number of files of another extension, once the partitions are listed

    @abstractmethod
    def partitions(self) -> Iterator[Partition]:
        """List the partitions, in order.

        Raises:
            JobError: The input is of the wrong kind.
            OSError: The input cannot be read.
        """


def cut(items: Iterable[T], size: int) -> Iterator[tuple[int, tuple[T, ...]]]:
    """Cut items into partitions: the number of each one's first item, from 1, and its items."""
    left, first = iter(items), 1
    while taken := tuple(islice(left, size)):
        yield first, taken
        first += len(taken)


def digest(parts: Iterable[str]) -> str:
    """Hash a list of strings."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape")
        found.update(b"%d:" % len(data) + data)
    return found.hexdigest()[:32]


def problem_of(key: str) -> Problem | None:
    """Reason why outputs cannot hold a key: lists have one per line, parquet needs UTF-8."""
    if any(mark in key for mark in "\r\n"):
        return Problem("bad_name", "the name contains a line break; rename the file")
    try:
        key.encode()
    except UnicodeEncodeError:
        return Problem("bad_name", "the name is not UTF-8; rename the file")
    return None
