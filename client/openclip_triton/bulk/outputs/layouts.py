"""Layouts of an output folder: clip-retrieval's, and parquet with vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openclip_triton.bulk import metadata, storage
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.manifests import Settings
from openclip_triton.bulk.outputs.files import NpyFile, ParquetFile
from openclip_triton.bulk.samples import IMAGES, TEXTS, Kind
from openclip_triton.values import Space, Vector

BATCH = 1024  # rows held in memory


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a part."""

    key: str
    text: str | None
    metadata: str | None  # a JSON object
    vectors: dict[str, Vector]  # by the kind's noun; zeros if it is missing


@dataclass(slots=True)
class Part:
    """Writes the files of one partition."""

    kinds: Sequence[Kind]  # the halves to write
    arrays: Mapping[Kind, NpyFile]  # of their vectors, unless these are columns of the table
    table: ParquetFile  # of keys and captions
    dimensions: int
    join: bool = False  # whether to add the columns of the other half's existing table
    spread: bool = False  # whether to give each field of the last column, metadata, its own
    rows: list[Row] = field(default_factory=list)  # not yet in the files

    def write(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)
        if len(self.rows) >= BATCH:
            self._flush()

    def publish(self) -> None:
        """Make the files appear.

        Raises:
            JobError: They do not fit the existing files.
            OSError: They cannot be written.
        """
        if self.rows:
            self._flush()
        for file in self._files():
            file.close()
        if self.spread:
            metadata.spread(self.table.temporary)
        if self.join:
            _add_columns(self.table)
        for file in self._files():
            file.publish()

    def discard(self) -> None:
        """Remove what was written."""
        for file in self._files():
            file.discard()

    def _files(self) -> list[NpyFile | ParquetFile]:
        return [*self.arrays.values(), self.table]

    def _flush(self) -> None:
        vectors = {kind: self._vectors(kind) for kind in self.kinds}
        for kind, file in self.arrays.items():
            file.write(vectors.pop(kind))
        cells = [
            [row.key if kind == IMAGES else row.text for row in self.rows] for kind in self.kinds
        ]
        if self.spread:
            cells.append([row.metadata for row in self.rows])
        self.table.write([*cells, *vectors.values()])
        self.rows.clear()

    def _vectors(self, kind: Kind) -> NDArray[np.float32]:
        zeros = np.zeros(self.dimensions, np.float32)
        return np.stack([row.vectors.get(kind.noun, zeros) for row in self.rows])


def _add_columns(table: ParquetFile) -> None:
    """Add the columns that the metadata of the other half has."""
    with storage.storage_of(table.path).open(table.path) as file:
        there = pq.read_table(file)
    ours = pq.read_table(table.temporary)
    if there.num_rows != ours.num_rows:
        raise JobError(
            f"{table.path} has {there.num_rows:,} rows, not {ours.num_rows:,} as its manifest says"
        )
    for name in ours.column_names:
        column = ours.column(name)
        if name in there.column_names:
            there = there.set_column(there.column_names.index(name), name, column)
        else:
            there = there.append_column(name, column)
    pq.write_table(there, table.temporary)


@dataclass(frozen=True)
class ClipFolder:
    """Vectors in img_emb and text_emb, keys and captions in metadata: clip-retrieval's layout."""

    root: str
    dtype: str
    form = "clip-retrieval"
    joins = True

    def part(self, name: str, kinds: Sequence[Kind], settings: Settings, *, join: bool) -> Part:
        """Begin the files of partition `name`; `join` says that the other half is there already."""
        size = settings.dimensions
        files = {kind: NpyFile(self.vectors(name, kind), size, self.dtype) for kind in kinds}
        columns = [kind.folder_column for kind in kinds]
        columns += [metadata.COLUMN] if settings.metadata else []
        schema = pa.schema([(column, pa.string()) for column in columns])
        table = ParquetFile(self.metadata(name), schema)
        return Part(kinds, files, table, size, join=join, spread=settings.metadata)

    def vectors(self, name: str, kind: Kind) -> str:
        """Name the file of the vectors."""
        return f"{self.root}/{kind.folder}/{kind.folder}_{name}.npy"

    def metadata(self, name: str) -> str:
        """Name the file that both halves share."""
        return f"{self.root}/metadata/metadata_{name}.parquet"

    def files(self, names: Sequence[str], kind: Kind) -> list[str]:
        """List the files of a half of partitions; the metadata goes with the last half."""
        others = set(self.parts(TEXTS if kind == IMAGES else IMAGES))
        shared = [self.metadata(name) for name in names if name not in others]
        return [self.vectors(name, kind) for name in names] + shared

    def parts(self, kind: Kind) -> list[str]:
        """List the numbers of the partitions with any half present, finished or not."""
        return storage.numbers(f"{self.root}/{kind.folder}", f"{kind.folder}_", ".npy")


@dataclass(frozen=True)
class ParquetFolder:
    """A parquet file for each partition: keys or texts, and vectors."""

    root: str
    dtype: str
    form = "parquet"
    joins = False

    def part(self, name: str, kinds: Sequence[Kind], settings: Settings, *, join: bool) -> Part:
        """Begin the file of a partition."""
        table = ParquetFile(self.path(name), schema_of(kinds, settings, self.dtype))
        return Part(kinds, {}, table, settings.dimensions)

    def path(self, name: str) -> str:
        """Name the file of a partition."""
        return f"{self.root}/part_{name}.parquet"

    def files(self, names: Sequence[str], kind: Kind) -> list[str]:
        """List the files of partitions, which both halves share."""
        return [self.path(name) for name in names]

    def parts(self, kind: Kind) -> list[str]:
        """List the numbers of the partitions that are there, finished or not."""
        return storage.numbers(self.root, "part_", ".parquet")


Layout = ClipFolder | ParquetFolder


def schema_of(kinds: Sequence[Kind], space: Space, dtype: str) -> Any:  # noqa: ANN401
    """Columns of a parquet file of keys or texts, and vectors."""
    names = ["embedding"] if len(kinds) == 1 else [f"{kind.noun}_embedding" for kind in kinds]
    vector = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), space.dimensions)
    fields = [pa.field(kind.column, pa.string()) for kind in kinds]
    fields += [pa.field(name, vector, nullable=False) for name in names]
    return pa.schema(fields, {"model": space.model, "fingerprint": space.fingerprint})
