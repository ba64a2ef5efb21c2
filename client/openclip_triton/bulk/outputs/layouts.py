"""The forms of an output folder: clip-retrieval's, and parquet with vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.outputs.files import Draft, NpyFile, ParquetFile
from openclip_triton.bulk.samples import IMAGES, KINDS, TEXTS, Kind
from openclip_triton.bulk.storage import storage_of
from openclip_triton.values import Space, Vector

BATCH = 1024  # rows held in memory


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a part."""

    key: str
    text: str | None
    vectors: dict[str, Vector | None]  # by the kind's noun; None: zeros


class Part(Protocol):
    """Writes the files of one partition."""

    def write(self, row: Row) -> None:
        """Append a row."""

    def publish(self) -> None:
        """Make the files appear.

        Raises:
            JobError: They do not fit what is there.
            OSError: They cannot be written.
        """

    def discard(self) -> None:
        """Remove what was written."""


class Layout(Protocol):
    """Names and writes the files of an output folder."""

    @property
    def root(self) -> str:
        """The folder."""

    @property
    def dtype(self) -> str:
        """Type of the vectors: float32 or float16."""

    @property
    def form(self) -> str:
        """Name of the layout."""

    @property
    def joins(self) -> bool:
        """Whether one half can be added to the other."""

    def part(self, name: str, kinds: Sequence[Kind], space: Space, *, join: bool) -> Part:
        """Begin the files of a partition.

        Args:
            name: Its number, as in the names of the files.
            kinds: The halves to write.
            space: Where the vectors come from.
            join: Whether the other half is there already.
        """

    def files(self, name: str, kind: Kind) -> list[str]:
        """List the files of one half of a partition."""

    def parts(self, kind: Kind) -> list[str]:
        """List the numbers of the partitions of which a half is there, finished or not."""


class _Batches:
    """Collects rows into batches."""

    def __init__(self, kinds: Sequence[Kind], dimensions: int) -> None:
        self._kinds = kinds
        self._zeros = np.zeros(dimensions, np.float32)
        self.rows: list[Row] = []

    def full(self, row: Row) -> bool:
        self.rows.append(row)
        return len(self.rows) >= BATCH

    def strings(self, kind: Kind) -> list[str | None]:
        return [row.key if kind == IMAGES else row.text for row in self.rows]

    def vectors(self, kind: Kind) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        found = (row.vectors[kind.noun] for row in self.rows)
        return np.stack([self._zeros if vector is None else vector for vector in found])


class _FolderPart:
    def __init__(
        self, layout: "ClipFolder", name: str, kinds: Sequence[Kind], space: Space, join: bool
    ) -> None:
        self._kinds = kinds
        self._join = join
        self._vectors = {
            kind: NpyFile(layout.vectors(name, kind), space.dimensions, layout.dtype)
            for kind in kinds
        }
        columns = [kind.folder_column for kind in kinds]
        self._metadata = ParquetFile(
            layout.metadata(name), columns, [], space.dimensions, layout.dtype, {}
        )
        self._files: list[NpyFile | ParquetFile] = [*self._vectors.values(), self._metadata]
        self._batch = _Batches(kinds, space.dimensions)

    def write(self, row: Row) -> None:
        if self._batch.full(row):
            self._flush()

    def publish(self) -> None:
        if self._batch.rows:
            self._flush()
        for file in self._files:
            file.close()
        if self._join:
            _add_columns(self._metadata.draft)
        for vectors in self._vectors.values():
            vectors.draft.publish()
        self._metadata.draft.publish()

    def discard(self) -> None:
        for file in self._files:
            file.discard()

    def _flush(self) -> None:
        for kind, file in self._vectors.items():
            file.write(self._batch.vectors(kind))
        self._metadata.write([self._batch.strings(kind) for kind in self._kinds])
        self._batch.rows.clear()


def _add_columns(draft: Draft) -> None:
    """Add the columns that the metadata of the other half has."""
    import pyarrow.parquet as pq

    with storage_of(draft.path).open(draft.path) as file:
        there = pq.read_table(file)
    ours = pq.read_table(draft.draft)
    if there.num_rows != ours.num_rows:
        raise JobError(
            f"{draft.path} has {there.num_rows:,} rows, not {ours.num_rows:,} as its manifest says"
        )
    for name in ours.column_names:
        column = ours.column(name)
        if name in there.column_names:
            there = there.set_column(there.column_names.index(name), name, column)
        else:
            there = there.append_column(name, column)
    pq.write_table(there, draft.draft)


@dataclass(frozen=True)
class ClipFolder:
    """Vectors in img_emb and text_emb, keys and captions in metadata: clip-retrieval's layout."""

    root: str
    dtype: str
    form = "clip-retrieval"
    joins = True

    def part(self, name: str, kinds: Sequence[Kind], space: Space, *, join: bool) -> Part:
        """Begin the files of a partition."""
        return _FolderPart(self, name, kinds, space, join)

    def vectors(self, name: str, kind: Kind) -> str:
        """Name the file of the vectors."""
        return f"{self.root}/{kind.folder}/{kind.folder}_{name}.npy"

    def metadata(self, name: str) -> str:
        """Name the file that both halves share."""
        return f"{self.root}/metadata/metadata_{name}.parquet"

    def files(self, name: str, kind: Kind) -> list[str]:
        """List the files of a half; the metadata goes with the last half."""
        other = TEXTS if kind == IMAGES else IMAGES
        shared = [] if name in self.parts(other) else [self.metadata(name)]
        return [self.vectors(name, kind), *shared]

    def parts(self, kind: Kind) -> list[str]:
        """List the numbers of the partitions of which a half is there."""
        names = storage_of(self.root).names(f"{self.root}/{kind.folder}")
        start = f"{kind.folder}_"
        return [n[len(start) : -4] for n in names if n.startswith(start) and n.endswith(".npy")]


class _ParquetPart:
    def __init__(
        self, layout: "ParquetFolder", name: str, kinds: Sequence[Kind], space: Space
    ) -> None:
        self._kinds = kinds
        about = {"model": space.model, "fingerprint": space.fingerprint}
        self._file = ParquetFile(
            layout.path(name), [kind.column for kind in kinds], vector_columns(kinds),
            space.dimensions, layout.dtype, about,
        )  # fmt: skip
        self._batch = _Batches(kinds, space.dimensions)

    def write(self, row: Row) -> None:
        if self._batch.full(row):
            self._flush()

    def publish(self) -> None:
        if self._batch.rows:
            self._flush()
        self._file.close()
        self._file.draft.publish()

    def discard(self) -> None:
        self._file.discard()

    def _flush(self) -> None:
        self._file.write(
            [self._batch.strings(kind) for kind in self._kinds],
            [self._batch.vectors(kind) for kind in self._kinds],
        )
        self._batch.rows.clear()


@dataclass(frozen=True)
class ParquetFolder:
    """A parquet file for each partition: keys or texts, and vectors."""

    root: str
    dtype: str
    form = "parquet"
    joins = False

    def part(self, name: str, kinds: Sequence[Kind], space: Space, *, join: bool) -> Part:
        """Begin the file of a partition."""
        return _ParquetPart(self, name, kinds, space)

    def path(self, name: str) -> str:
        """Name the file of a partition."""
        return f"{self.root}/part_{name}.parquet"

    def files(self, name: str, kind: Kind) -> list[str]:
        """List the file, which both halves share."""
        return [self.path(name)]

    def parts(self, kind: Kind) -> list[str]:
        """List the numbers of the partitions that are there."""
        names = storage_of(self.root).names(self.root)
        return [n[5:-8] for n in names if n.startswith("part_") and n.endswith(".parquet")]


def vector_columns(kinds: Sequence[Kind]) -> list[str]:
    """Name the columns of vectors."""
    if len(kinds) < len(KINDS):
        return ["embedding"]
    return [f"{kind.noun}_embedding" for kind in kinds]
