"""Texts, one per line, from a file or from standard input."""

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TextIO

from openclip_triton.bulk.samples import Input, Partition, Sample, cut, digest
from openclip_triton.bulk.storage import storage_of

STDIN = "-"


@dataclass(frozen=True, slots=True)
class LinesPart(Partition):
    """Some lines, each a text."""

    first: int  # number of the first line, from 1
    texts: tuple[str, ...]

    def samples(self) -> Iterator[Sample]:
        """List the texts."""
        for number, text in enumerate(self.texts, self.first):
            yield Sample(f"line {number}", text=text)


class Lines(Input):
    """The lines of a file or URL; `-` is standard input, copied to disk to be read twice."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._size = size
        self._typed = _spooled() if path == STDIN else None

    def partitions(self) -> Iterator[Partition]:
        """Cut the lines into partitions."""
        for first, taken in cut(self.lines(), self._size):
            source = f"{self._path} from line {first:,}"
            yield LinesPart(source, digest(taken), len(taken), first, taken)

    def lines(self) -> Iterator[str]:
        """Read the lines, without their ends."""
        typed = self._typed
        if typed is not None:
            typed.seek(0)
        with opened(self._path) if typed is None else nullcontext(typed) as file:
            for line in file:
                yield line.rstrip("\r\n")


@contextmanager
def opened(path: str) -> Iterator[TextIO]:
    """Open a file or URL as text; bytes that are not UTF-8 stay visible as failures."""
    with (
        storage_of(path).open(path) as raw,
        io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        yield file


def _spooled() -> TextIO:
    copy = tempfile.TemporaryFile(  # noqa: SIM115 - open as long as the input
        "w+", encoding="utf-8", errors="surrogateescape", newline=""
    )
    shutil.copyfileobj(sys.stdin, copy)
    return copy
