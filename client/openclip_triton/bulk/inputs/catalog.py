"""Chooses the reader for each input that the user named."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.inputs import tars
from openclip_triton.bulk.inputs.columns import Columns
from openclip_triton.bulk.inputs.delimited import Delimited
from openclip_triton.bulk.inputs.files import ImageFiles
from openclip_triton.bulk.inputs.lines import STDIN, Lines
from openclip_triton.bulk.inputs.parquet import Parquet
from openclip_triton.bulk.listing import ENDINGS
from openclip_triton.bulk.samples import IMAGES, Input, Kind, Partition
from openclip_triton.bulk.storage import storage_of


@dataclass(frozen=True)
class Inputs:
    """All inputs of a job, in the given order."""

    paths: Sequence[str]  # files, folders, globs and URLs; `-` is standard input
    kinds: tuple[Kind, ...]  # that the job embeds
    size: int  # number of samples in a partition; a tar is one partition, whatever its size
    endings: tuple[str, ...] = ENDINGS  # of the images below folders
    columns: Columns = field(default_factory=Columns)  # of tables, as the user named them
    metadata: bool = False  # whether to read the .json of tars; with it, all inputs are tars

    def open(self) -> list[Input]:
        """Find the kind of each path.

        Raises:
            JobError: A path does not exist, or does not hold what the job embeds.
            OSError: A path cannot be read.
        """
        found: list[Input] = []
        for kind, group in groupby(self._expanded(), self._ending):
            paths = list(group)
            if self.metadata and kind != ".tar":
                raise JobError(f"{paths[0]} is not a tar: --metadata reads the .json files of tars")
            if kind is None:
                found.append(self._files(paths))
            else:
                found += [self._dataset(path, kind) for path in paths]
        return found

    def _expanded(self) -> Iterator[str]:
        """Replace globs with their matches, and folders of tars or parquet with their files."""
        for path in self.paths:
            storage = storage_of(path)
            if path == STDIN or storage.is_file(path):
                yield path
            elif storage.is_folder(path):
                yield from _datasets(path, storage.names(path)) or [path]
            elif any(mark in path for mark in "*?["):
                matches = storage.glob(path)
                if not matches:
                    raise JobError(f"nothing matches {path}")
                yield from matches
            elif path.startswith(("http://", "https://")):
                yield path  # servers need not answer whether it is a file
            else:
                raise JobError(f"{path} does not exist")

    def _ending(self, path: str) -> str | None:
        """The kind of dataset in a file; None: the file is an image."""
        name = path.lower()
        if name.endswith(tars.ENDINGS):
            return ".tar"
        for ending in (".parquet", ".csv", ".tsv", ".txt"):
            if name.endswith(ending):
                return ending
        texts_only = IMAGES not in self.kinds and storage_of(path).is_file(path)
        lines = path == STDIN or (texts_only and not name.endswith(self.endings))
        return ".txt" if lines else None

    def _dataset(self, path: str, kind: str) -> Input:
        if kind == ".tar":
            return tars.Tar(path, self.kinds, self.metadata)
        if kind == ".parquet":
            return Parquet(path, self.size, self.columns, self.kinds)
        if kind in (".csv", ".tsv"):
            return Delimited(path, self.size, self.columns, self.kinds)
        if IMAGES not in self.kinds:
            return Lines(path, self.size)
        return self._files([path], listed=True)

    def _files(self, paths: list[str], *, listed: bool = False) -> Input:
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        lines = Lines(paths[0], self.size).lines if listed else lambda: paths
        return ImageFiles(paths[0] + more, lines, self.endings, self.size, self.kinds)


def partitions(inputs: Iterable[Input]) -> Iterator[Partition]:
    """List the partitions of all inputs, in order."""
    for found in inputs:
        yield from found.partitions()


def _datasets(folder: str, names: Sequence[str]) -> list[str]:
    for endings in (tars.ENDINGS, (".parquet",)):
        found = [name for name in names if name.lower().endswith(endings)]
        if found:
            return [f"{folder.rstrip('/')}/{name}" for name in found]
    return []
