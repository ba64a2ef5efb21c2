"""Files that are written row by row, and appear only once complete."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openclip_triton.bulk.storage import Draft


class NpyFile(Draft):
    """An .npy file [n, D] whose number of rows is known only at the end."""

    def __init__(self, path: str, dimensions: int, dtype: str) -> None:
        super().__init__(path)
        self._descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
        self._dimensions = dimensions
        self._rows = 0
        self._file = self.temporary.open("wb")
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
        super().discard()

    def _write_header(self) -> None:
        shape = (self._rows, self._dimensions)
        header = {"descr": self._descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class ParquetFile(Draft):
    """A parquet file of string columns and columns of vectors."""

    def __init__(self, path: str, schema: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        super().__init__(path)
        self._schema = schema
        self._writer: Any = pq.ParquetWriter(self.temporary, schema)

    def write(self, columns: Sequence[Sequence[str | None] | NDArray[np.float32]]) -> None:
        """Append rows: the cells of each column of strings, and [n, D] of each of vectors."""
        pairs = zip(columns, self._schema.types, strict=True)
        arrays = [_array(column, kind) for column, kind in pairs]
        self.copy(pa.record_batch(arrays, self._schema))

    def copy(self, batch: Any) -> None:  # noqa: ANN401
        """Append the rows of a record batch of the same schema."""
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()

    def discard(self) -> None:
        """Remove what was written."""
        self._writer.close()
        super().discard()


def _array(column: Sequence[str | None] | NDArray[np.float32], kind: Any) -> Any:  # noqa: ANN401
    if not isinstance(column, np.ndarray):
        return pa.array(column, kind)
    # Not `to_pandas_dtype`, for which pyarrow 25 imports pandas.
    dtype = np.float16 if pa.types.is_float16(kind.value_type) else np.float32
    flat = pa.array(column.astype(dtype).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
