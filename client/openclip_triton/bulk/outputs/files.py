"""Files that are written row by row, and appear only once complete."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openclip_triton.bulk.storage import storage_of


class Draft:
    """A file that appears under its name when it is published."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._storage = storage_of(path)
        self.draft: Path = self._storage.draft(path)

    def publish(self) -> None:
        """Make the complete file appear under its name."""
        self._storage.publish(self.draft, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        self.draft.unlink(missing_ok=True)


class NpyFile:
    """An .npy file [n, D] whose number of rows is known only at the end."""

    def __init__(self, path: str, dimensions: int, dtype: str) -> None:
        self.draft = Draft(path)
        self._descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
        self._dimensions = dimensions
        self._rows = 0
        self._file = self.draft.draft.open("wb")
        self._write_header()

    def write(self, vectors: NDArray[np.float32]) -> None:
        """Append rows [n, D]."""
        self._file.write(vectors.astype(self._descr).tobytes())
        self._rows += len(vectors)

    def close(self) -> None:
        """Write the number of rows."""
        self._file.seek(0)
        self._write_header()  # numpy reserves space in the header for any number
        self._file.close()

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        self.draft.discard()

    def _write_header(self) -> None:
        shape = (self._rows, self._dimensions)
        header = {"descr": self._descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class ParquetFile:
    """A parquet file of string columns and columns of vectors."""

    def __init__(
        self,
        path: str,
        strings: Sequence[str],
        vectors: Sequence[str],
        dimensions: int,
        dtype: str,
        about: dict[str, str],
    ) -> None:
        import pyarrow as pa  # takes 0.1 s, so only if parquet is written
        import pyarrow.parquet as pq

        self.draft = Draft(path)
        self._pa = pa
        self._dimensions = dimensions
        self._dtype = dtype
        element = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), dimensions)
        fields = [pa.field(name, pa.string()) for name in strings]
        fields += [pa.field(name, element, nullable=False) for name in vectors]
        self._schema = pa.schema(fields, metadata=about or None)
        self._writer: Any = pq.ParquetWriter(self.draft.draft, self._schema)

    def write(
        self, strings: Sequence[Sequence[str | None]], vectors: Sequence[NDArray[np.float32]] = ()
    ) -> None:
        """Append rows: the cells of each string column, and [n, D] of each column of vectors."""
        arrays = [self._pa.array(cells, self._pa.string()) for cells in strings]
        for rows in vectors:
            flat = self._pa.array(rows.astype(self._dtype).ravel())
            arrays.append(self._pa.FixedSizeListArray.from_arrays(flat, self._dimensions))
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()

    def discard(self) -> None:
        """Remove what was written."""
        self._writer.close()
        self.draft.discard()
