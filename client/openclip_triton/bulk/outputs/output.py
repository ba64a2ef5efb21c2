"""The output of a job: a folder of parts, or one file that is joined from them at the end."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openclip_triton.bulk import storage
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.manifests import VERSION
from openclip_triton.bulk.outputs.files import NpyFile, ParquetFile
from openclip_triton.bulk.outputs.layouts import BATCH, ClipFolder, Layout, ParquetFolder, schema_of
from openclip_triton.bulk.samples import KINDS, Kind
from openclip_triton.values import Space

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be replaced anyway
    fcntl = None  # type: ignore[assignment]

_OTHER_FILES = frozenset({".csv", ".h5", ".json", ".jsonl", ".npz", ".pkl", ".pt", ".txt"})


@dataclass(frozen=True)
class Output:
    """Where the vectors go."""

    path: str
    layout: Layout
    joined: str | None = None  # .npy, .parquet or .lance: one file, or one table of Lance

    @property
    def failed(self) -> str:
        """File that lists the failures."""
        return f"{self.path}.failed.txt"

    @contextmanager
    def begun(self, kinds: Sequence[Kind], *, overwrite: bool) -> Iterator[None]:
        """Claim the output for one run.

        Raises:
            JobError: It exists and belongs to something else, or another run is writing it.
            OSError: It cannot be written.
        """
        if self.joined == ".lance":
            import_module("lancedb")  # if it is missing, the job ends before the work
        mark = f"{self.layout.root}/manifests/job.json"
        files = storage.storage_of(self.path)
        ours = files.is_file(mark)
        if not ours:
            self._refuse_others(kinds, overwrite=overwrite)
        with ExitStack() as stack:
            if not storage.is_url(self.path):
                try:
                    Path(mark).parent.mkdir(parents=True, exist_ok=True)
                except (FileExistsError, NotADirectoryError) as error:
                    raise JobError(f"{Path(self.path).parent} is not a folder") from error
                stack.enter_context(_locked(Path(mark).with_name("lock")))
            if ours:
                self._check(mark)
            else:
                about = {"format": VERSION, "layout": self.layout.form}
                storage.write(mark, json.dumps(about).encode())
            yield

    def _refuse_others(self, kinds: Sequence[Kind], *, overwrite: bool) -> None:
        """Refuse to replace files that no job of this command wrote."""
        there = [kind for kind in KINDS if self.layout.parts(kind)]
        others = [kind for kind in there if kind not in kinds]
        if others and self.layout.joins:
            raise JobError(
                f"{self.path}/{others[0].folder} was not written by this command: its rows cannot "
                "be lined up; name another output"
            )
        files = storage.storage_of(self.path)
        exists = self.joined and (files.is_file(self.path) or files.is_folder(self.path))
        if (exists or there) and not overwrite:
            raise JobError(f"{self.path} exists already; give --overwrite to replace it")

    def _check(self, mark: str) -> None:
        try:
            about = json.loads(storage.read(mark))
            found = about["format"], about["layout"]
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(f"{mark} is not a file of this command") from error
        if found != (VERSION, self.layout.form):
            raise JobError(
                f"{self.path} is in the layout {found[1]}, version {found[0]}; name another output"
            )

    def list_failures(self, lines: Iterable[str]) -> None:
        """Write the list of failures."""
        with (
            storage.Draft(self.failed) as draft,
            draft.temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.writelines(f"{line}\n" for line in lines)

    def finish(
        self, names: Sequence[str], kinds: Sequence[Kind], space: Space, *, keep: bool
    ) -> None:
        """Join the parts, in order, if the output is one file or table.

        With `keep`, the parts stay for a later run that retries failures.
        """
        if self.joined is None:
            return
        batches = self._batches(names, kinds[0])
        schema = schema_of(kinds, space, self.layout.dtype)
        if self.joined == ".npy":
            self._join_npy(batches, kinds[0], space)
        elif self.joined == ".lance":
            self._join_lance(pa.RecordBatchReader.from_batches(schema, batches))
        else:
            with ParquetFile(self.path, schema) as whole:
                for batch in batches:
                    whole.copy(batch)
        if not keep:
            storage.storage_of(self.path).remove_folder(self.layout.root)

    def _join_npy(self, batches: Iterator[Any], kind: Kind, space: Space) -> None:
        # The vectors get their name last: if they exist, so does the list.
        with (
            NpyFile(self.path, space.dimensions, self.layout.dtype) as whole,
            storage.Draft(self.path.removesuffix(".npy") + kind.companion) as listed,
            listed.temporary.open("w", encoding="utf-8") as lines,
        ):
            for batch in batches:
                keys, vectors = batch.columns
                whole.write(vectors.flatten().to_numpy().reshape(-1, space.dimensions))
                lines.writelines(" ".join(key.splitlines()) + "\n" for key in keys.to_pylist())

    def _join_lance(self, rows: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        """Write a table named as in LanceDB, FOLDER/NAME.lance; it appears only once complete."""
        import lancedb

        path = self.path if storage.is_url(self.path) else Path(self.path).as_posix()
        folder, _, name = path.rpartition("/")
        lancedb.connect(folder or ".").create_table(name[: -len(".lance")], rows, mode="overwrite")

    def _batches(self, names: Sequence[str], kind: Kind) -> Iterator[Any]:
        for path in self.layout.files(names, kind):
            with storage.storage_of(path).open(path) as file:
                yield from pq.ParquetFile(file).iter_batches(BATCH)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file locked; the system frees it when the process ends, however it ends.

    Raises:
        JobError: Another run on this machine holds it.
    """
    with path.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JobError("another run is writing the same output") from error
        yield


def output_of(path: str, kinds: Sequence[Kind], dtype: str | None, form: str | None) -> Output:
    """Choose the form of an output by its name.

    Args:
        path: A name ending in .npy, .parquet or .lance, or a folder's; or a URL of one.
        kinds: The halves to write.
        dtype: float32 or float16; None is float16 in clip-retrieval's layout, as clip-retrieval
            writes it, and float32 elsewhere.
        form: Layout of a folder; None is clip-retrieval's.

    Raises:
        ValueError: The name belongs to another kind of file, or the form to another name.
    """
    path = path.rstrip("/")
    suffix = PurePosixPath(path).suffix
    folder = storage.storage_of(path).is_folder(path)
    if suffix == ".lance" or (suffix in (".npy", ".parquet") and not folder):
        if form is not None:
            raise ValueError(f"{path}: a format is for a folder, not for a file")
        if suffix == ".npy" and len(kinds) > 1:
            raise ValueError(f"{path}: pairs need a .parquet file, a .lance table or a folder")
        return Output(path, ParquetFolder(f"{path}.parts", dtype or "float32"), suffix)
    if suffix in _OTHER_FILES and not folder:
        raise ValueError(f"{path}: name a .npy or .parquet file, a .lance table or a folder")
    if form == "parquet":
        return Output(path, ParquetFolder(path, dtype or "float32"))
    return Output(path, ClipFolder(path, dtype or "float16"))
