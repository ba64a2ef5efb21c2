"""Parquet with columns of encoded images, paths or URLs, and of captions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.inputs.columns import Columns, Table
from openclip_triton.bulk.inputs.files import fetched
from openclip_triton.bulk.samples import Partition, Sample, digest
from openclip_triton.bulk.storage import storage_of

BATCH = 64  # rows read at once
BUFFER = 2**20  # bytes of a column read at once


@dataclass(frozen=True, slots=True)
class ParquetPart(Partition):
    """Consecutive rows of a file."""

    path: str
    columns: Columns
    start: int  # rows before the first
    stop: int  # rows up to the last

    def samples(self) -> Iterator[Sample]:
        """Read the rows."""
        return fetched(self._rows())

    def _rows(self) -> Iterator[Sample]:
        with _opened(self.path) as file:
            number = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if number + rows <= self.start or number >= self.stop:
                    number += rows
                    continue
                names = self.columns.names()
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=names):
                    low = min(max(0, self.start - number), batch.num_rows)
                    taken = batch.slice(low, max(0, self.stop - number - low))
                    for row in taken.to_pylist():
                        yield self.columns.sample(row, number + low + 1)
                        low += 1
                    number += batch.num_rows


class Parquet(Table):
    """The rows of a parquet file or URL."""

    def partitions(self) -> Iterator[Partition]:
        """Cut the rows into partitions."""
        version = storage_of(self.path).stamp(self.path)
        with _opened(self.path) as file:
            columns = self.choose(file.schema_arrow.names)
            rows = file.metadata.num_rows
        version = digest([version, *columns.names()])
        for start in range(0, rows, self.size):
            source = f"{self.path} from row {start + 1:,}"
            stop = min(start + self.size, rows)
            yield ParquetPart(source, version, stop - start, self.path, columns, start, stop)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    with storage_of(path).open(path) as raw:
        try:
            yield pq.ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise JobError(f"{path} cannot be read as parquet: {error}") from error
