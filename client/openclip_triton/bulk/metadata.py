"""Metadata of samples (the KEY.json of tars): JSON at first, columns once a part is complete."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_BYTES = 2**16  # of one sample
MAX_DEPTH = 100  # well below the recursion limit of any Python that reads it
MAX_COLUMNS = 256  # of one part
COLUMN = "metadata"  # of JSON
_KEPT_OUT = ("image_path", "caption", COLUMN)  # as clip-retrieval does
_BATCH = 1024  # rows held in memory
_INT64 = range(-(2**63), 2**63)


def checked(data: bytes) -> str:
    """Decode the metadata of a sample.

    Raises:
        ValueError: It is larger than `MAX_BYTES`, nested deeper than `MAX_DEPTH`, or not a JSON
            object.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"the .json is larger than {MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
        found = json.loads(text)
        # Half a surrogate pair is JSON, but not UTF-8.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the .json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("the .json is not an object")  # noqa: TRY004 - its content is wrong
    level: list[Any] = [found]
    for _ in range(MAX_DEPTH + 1):
        inner = (each for each in level if isinstance(each, dict | list))
        level = [x for each in inner for x in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return text
    raise ValueError(f"the .json is nested more than {MAX_DEPTH} deep")


def spread(path: Path) -> None:
    """Replace the column of JSON in a parquet file by a column for each field.

    A column is of booleans, integers, floats or texts; objects, lists and fields of several types
    are texts, of JSON. Fields after the first `MAX_COLUMNS` stay together in the column of JSON.
    """
    wide = path.with_name(path.name + ".wide")
    try:
        with pq.ParquetFile(path) as file:
            types = _types(file)
            names = [name for name in file.schema_arrow.names if name != COLUMN]
            fields = [file.schema_arrow.field(name) for name in names]
            fields += [pa.field(name, getattr(pa, kind)()) for name, kind in types.items()]
            with pq.ParquetWriter(wide, pa.schema(fields)) as writer:
                for batch in file.iter_batches(_BATCH):
                    arrays = [batch.column(name) for name in names]
                    rows = [_fields(text) for text in batch.column(COLUMN).to_pylist()]
                    if COLUMN in types:
                        rows = [_folded(row, types) for row in rows]
                    for name, kind in types.items():
                        cells = [_cell(row.get(name), kind) for row in rows]
                        arrays.append(pa.array(cells, getattr(pa, kind)()))
                    writer.write_batch(pa.record_batch(arrays, writer.schema))
        wide.replace(path)
    finally:
        wide.unlink(missing_ok=True)


def _types(file: Any) -> dict[str, str]:  # noqa: ANN401 - pyarrow has no types
    types: dict[str, str] = {}
    for batch in file.iter_batches(_BATCH, columns=[COLUMN]):
        for text in batch.column(0).to_pylist():
            for name, value in _fields(text).items():
                if name in types:
                    types[name] = _common(types[name], _type(value))
                elif len(types) < MAX_COLUMNS:
                    types[name] = _type(value)
                else:
                    types[COLUMN] = "string"
    return types


def _fields(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text) if text else {}
    return {name: value for name, value in found.items() if name not in _KEPT_OUT}


def _folded(row: dict[str, Any], types: dict[str, str]) -> dict[str, Any]:
    rest = {name: row.pop(name) for name in list(row) if name not in types}
    return row | {COLUMN: rest or None}


def _type(value: object) -> str:
    """Name the function of pyarrow that makes the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool_"
    if isinstance(value, int) and value in _INT64:
        return "int64"
    return "float64" if isinstance(value, float) else "string"


def _common(one: str, other: str) -> str:
    types = {one, other} - {"null"}
    if len(types) < 2:
        return types.pop() if types else "null"
    return "float64" if types == {"int64", "float64"} else "string"


def _cell(value: object, kind: str) -> object:
    if value is None or isinstance(value, str):
        return value
    if kind == "string":
        return json.dumps(value, ensure_ascii=False)
    return float(value) if kind == "float64" else value  # type: ignore[arg-type]
