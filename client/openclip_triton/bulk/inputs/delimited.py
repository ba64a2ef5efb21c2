"""CSV and TSV with a header line."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.inputs.columns import Columns, Table
from openclip_triton.bulk.inputs.files import fetched
from openclip_triton.bulk.inputs.lines import opened
from openclip_triton.bulk.samples import Partition, Sample, cut, digest

MAX_CELL = 2**24  # characters


@dataclass(frozen=True, slots=True)
class RowsPart(Partition):
    """Some rows: the cells of the chosen columns."""

    columns: Columns
    first: int  # number of the first row, from 1
    rows: tuple[tuple[str | None, ...], ...]

    def samples(self) -> Iterator[Sample]:
        """Convert the rows."""
        names = self.columns.names()
        rows = (dict(zip(names, row, strict=True)) for row in self.rows)
        found = (self.columns.sample(row, number) for number, row in enumerate(rows, self.first))
        return fetched(found)


class Delimited(Table):
    """The rows of a CSV or TSV file or URL."""

    def partitions(self) -> Iterator[Partition]:
        """Cut the rows into partitions."""
        csv.field_size_limit(MAX_CELL)
        with opened(self.path) as file:
            tabs = self.path.lower().endswith(".tsv")
            reader = csv.DictReader(file, delimiter="\t" if tabs else ",", restval=None)
            try:
                columns = self.choose(reader.fieldnames or ())
                names = columns.names()
                rows = (tuple(row[name] for name in names) for row in reader)
                for first, taken in cut(rows, self.size):
                    version = digest(cell or "" for row in taken for cell in row)
                    source = f"{self.path} from row {first:,}"
                    yield RowsPart(source, version, len(taken), columns, first, taken)
            except csv.Error as error:
                raise JobError(f"{self.path}, line {reader.line_num:,}: {error}") from error
