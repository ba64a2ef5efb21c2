"""Output files of vectors. Each appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from openclip_triton.values import Vector

Rows = Iterator[tuple[str, Vector]]
BATCH = 4096  # rows held in memory
_OTHER_FILES = frozenset({".csv", ".h5", ".json", ".jsonl", ".npz", ".pkl", ".pt", ".txt"})


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of item that the rows embed."""

    noun: str
    companion: str  # ending of the list next to an .npy file
    column: str  # of a single parquet file
    folder: str  # of the vectors, where clip-retrieval looks for them
    folder_column: str  # of its metadata


IMAGES = Kind("image", ".paths.txt", "path", "img_emb", "image_path")
TEXTS = Kind("text", ".texts.txt", "text", "text_emb", "caption")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows to write."""

    rows: Rows
    count: int
    dimensions: int
    about: Mapping[str, str]  # the model and its fingerprint


class Layout(Protocol):
    """Writes a table to one form of output."""

    def exists(self) -> bool:
        """Whether the output exists already."""

    def write(self, table: Table) -> None:
        """Write the output, replacing an existing one."""


@dataclass(frozen=True, slots=True)
class NpyFile:
    """One .npy file [n, D], next to a list with one line for each row."""

    path: Path
    kind: Kind
    dtype: str

    def exists(self) -> bool:
        """Whether the output exists already."""
        return self.path.exists()

    def write(self, table: Table) -> None:
        """Write the output, replacing an existing one."""
        keys = self.path.with_name(self.path.stem + self.kind.companion)
        # The vectors get their name last: where they exist, so does the list.
        with _replacing(self.path) as file, _replacing(keys) as listed:
            for batch in _write_npy(file, table.rows, table.count, table.dimensions, self.dtype):
                listed.write("".join(f"{key}\n" for key in batch).encode())


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """One parquet file: a column of keys and one of fixed-size lists."""

    path: Path
    kind: Kind
    dtype: str

    def exists(self) -> bool:
        """Whether the output exists already."""
        return self.path.exists()

    def write(self, table: Table) -> None:
        """Write the output, replacing an existing one."""
        import pyarrow as pa  # takes 0.1 s, so only where parquet is written
        import pyarrow.parquet as pq

        element = pa.from_numpy_dtype(np.dtype(self.dtype))
        columns = pa.schema(
            [
                pa.field(self.kind.column, pa.string(), nullable=False),
                pa.field("embedding", pa.list_(element, table.dimensions), nullable=False),
            ],
            metadata=dict(table.about),
        )
        with _replacing(self.path) as file, pq.ParquetWriter(file, columns) as writer:
            while batch := list(islice(table.rows, BATCH)):
                flat = np.concatenate([vector for _, vector in batch]).astype(self.dtype)
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), table.dimensions)
                keys = pa.array([key for key, _ in batch], pa.string())
                writer.write_table(pa.Table.from_arrays([keys, vectors], schema=columns))


@dataclass(frozen=True, slots=True)
class Folder:
    """Shards of .npy and parquet in the folders that clip-retrieval's index step reads."""

    path: Path
    kind: Kind
    dtype: str
    shard_size: int

    def exists(self) -> bool:
        """Whether the output exists already."""
        return any((self.path / name).exists() for name in (self.kind.folder, "metadata"))

    def write(self, table: Table) -> None:
        """Write the output, replacing an existing one."""
        fresh = self.path.with_name(self.path.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        for name in (self.kind.folder, "metadata"):
            (fresh / name).mkdir(parents=True)
        shards = max(1, -(-table.count // self.shard_size))
        for number in range(shards):
            size = min(self.shard_size, table.count - number * self.shard_size)
            self._shard(fresh, str(number).zfill(len(str(shards))), table, size)
        self._replace(fresh)

    def _shard(self, folder: Path, number: str, table: Table, size: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        vectors = folder / self.kind.folder / f"{self.kind.folder}_{number}.npy"
        metadata = folder / "metadata" / f"metadata_{number}.parquet"
        columns = pa.schema([pa.field(self.kind.folder_column, pa.string())])
        rows = islice(table.rows, size)
        with (
            _synced(vectors) as file,
            _synced(metadata) as listed,
            pq.ParquetWriter(listed, columns) as writer,
        ):
            for batch in _write_npy(file, rows, size, table.dimensions, self.dtype):
                keys = pa.array(batch, pa.string())
                writer.write_table(pa.Table.from_arrays([keys], schema=columns))

    def _replace(self, fresh: Path) -> None:
        # Replaces only the folders of a layout; other files stay.
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (IMAGES.folder, TEXTS.folder, "metadata"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("metadata", self.kind.folder):  # the vectors last, as for NpyFile
            (fresh / name).rename(self.path / name)
        fresh.rmdir()


def layout_of(output: Path, kind: Kind, dtype: str | None, shard_size: int) -> Layout:
    """Choose the layout by the name of the output.

    Args:
        output: A name ending in .npy or .parquet, or a folder's.
        kind: The kind of item that the rows embed.
        dtype: float32 or float16; None is float32 for a file, and float16 for a folder, as
            clip-retrieval writes it.
        shard_size: Number of rows in each file of a folder.

    Raises:
        ValueError: The name belongs to another kind of file.
    """
    if output.suffix == ".npy" and not output.is_dir():
        return NpyFile(output, kind, dtype or "float32")
    if output.suffix == ".parquet" and not output.is_dir():
        return ParquetFile(output, kind, dtype or "float32")
    if output.suffix in _OTHER_FILES and not output.is_dir():
        raise ValueError(f"{output}: name a .npy file, a .parquet file or a folder")
    return Folder(output, kind, dtype or "float16", shard_size)


def _write_npy(
    file: BinaryIO, rows: Rows, count: int, dimensions: int, dtype: str
) -> Iterator[list[str]]:
    """Write rows as they come; yield the keys of each batch."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    header = {"descr": descr, "fortran_order": False, "shape": (count, dimensions)}
    np.lib.format.write_array_header_1_0(file, header)
    while batch := list(islice(rows, BATCH)):
        file.write(np.stack([vector for _, vector in batch]).astype(descr).tobytes())
        yield [key for key, _ in batch]


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing, and sync it to disk at the end of the block."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only once it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    try:
        with _synced(fresh) as file:
            yield file
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
