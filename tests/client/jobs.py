"""Bulk jobs in this process, the data that they read, and what they wrote."""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from openclip_triton import Client
from openclip_triton.bulk.display import Display
from openclip_triton.bulk.inputs.catalog import Inputs
from openclip_triton.bulk.inputs.columns import Columns
from openclip_triton.bulk.job import Job, Summary, run
from openclip_triton.bulk.outputs.output import output_of
from openclip_triton.bulk.samples import KINDS, Kind

Member = tuple[str, bytes]


class Notes(Display):
    """Keeps the lines that a display would show."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def embed(
    client: Client,
    paths: Path | str | Sequence[Path | str],
    output: Path | str,
    kinds: tuple[Kind, ...] = KINDS,
    *,
    size: int = 10,
    form: str | None = None,
    dtype: str | None = "float32",
    columns: Columns | None = None,
    metadata: bool = False,
    notes: Notes | None = None,
    **options: Any,
) -> Summary:
    """Run a job to its end."""
    given = [paths] if isinstance(paths, Path | str) else paths
    names = [str(path) for path in given]
    inputs = Inputs(names, kinds, size=size, columns=columns or Columns(), metadata=metadata)
    target = output_of(str(output), kinds, dtype, form)
    return run(Job(inputs, target, **options), client, notes or Display())


def write_tar(path: Path, members: Iterable[Member], mode: Any = "w") -> Path:
    """Write members with these names, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def image(key: str) -> bytes:
    """What stands for an image; the fake service takes all bytes but those that begin with bad."""
    return f"image {key}".encode()


def caption(key: str) -> str:
    return f"caption {key}"


def members(keys: Iterable[str], *, bad: Iterable[str] = ()) -> list[Member]:
    """The files of samples as img2dataset writes them; the bad ones are no images."""
    found: list[Member] = []
    for key in keys:
        data = b"bad " + key.encode() if key in bad else image(key)
        found += [
            (f"{key}.jpg", data),
            (f"{key}.txt", caption(key).encode()),
            (f"{key}.json", b"{}"),
        ]
    return found


def keys(count: int, tar: int = 0) -> list[str]:
    return [f"{tar:05}{number:04}" for number in range(count)]


def vectors(folder: Path, half: str) -> list[NDArray[Any]]:
    """The vectors of each partition, in the order of the names."""
    return [np.load(path) for path in sorted((folder / half).glob("*.npy"))]


def metadata(folder: Path) -> dict[str, list[Any]]:
    """The metadata of all partitions, in the order of the names; cells may be None."""
    found = [pq.read_table(path) for path in sorted((folder / "metadata").glob("*.parquet"))]
    columns: dict[str, list[Any]] = pa.concat_tables(found).to_pydict()
    return columns


def write_parquet(path: Path, columns: Mapping[str, Any], rows_in_group: int = 7) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=rows_in_group)
    return path
