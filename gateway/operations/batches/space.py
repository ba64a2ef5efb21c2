"""The files and batches of one owner. Everything here blocks: call it in a thread."""

import re
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.errors import MalformedRequest, TooLarge, UnknownObject, quoted
from gateway.operations.batches.documents import new_id, read, write, writing
from gateway.operations.batches.objects import ENDED, WINDOW_S, BatchObject, FileObject, StoredBatch

_FILE_ID = re.compile(r"file-[0-9a-f]{32}")
_BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
_LEFT_S = 3600.0  # age at which a leftover is deleted


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is kept, and for how long."""

    bytes: int  # of all files of all spaces
    objects: int  # files, and likewise batches, of one space
    lines: int  # of one batch
    keep_s: int


class Space:
    """The files and batches of one owner, in a folder beside those of the others."""

    def __init__(self, folder: Path, owner: str | None, limits: StoreLimits) -> None:
        self.folder = folder
        self.owner = owner
        self._limits = limits

    def add_file(self, content: bytes, filename: str, keep_s: int | None) -> FileObject:
        """Store an input file.

        Raises:
            TooLarge: There are too many, or too many bytes.
            Unavailable: The folder cannot be written; the disk may be full.
        """
        file_id = new_file_id()
        with writing():
            self._check_number("file-", "files: delete some, or wait")
            self.check_room(len(content))
            write(self.content(file_id), content)
            try:
                return self.publish(file_id, filename, "batch", keep_s)
            except OSError:
                self.content(file_id).unlink(missing_ok=True)
                raise

    def check_room(self, size: int) -> None:
        """Raises TooLarge: with `size` more bytes, the files of all spaces are over the limit."""
        used = sum(_size(path) for path in self.folder.parent.glob("*/file-*.jsonl"))
        if used + size > self._limits.bytes:
            raise TooLarge(
                f"the files are over the limit (GATEWAY_BATCH_MAX_BYTES) of {self._limits.bytes:,} "
                "bytes: delete some",
                code="storage_full",
            )

    def publish(
        self, file_id: str, filename: str, purpose: Literal["batch", "batch_output"],
        keep_s: int | None,
    ) -> FileObject:  # fmt: skip
        """Make a file of content that is on the disk already."""
        now = int(time.time())
        made = FileObject(
            id=file_id,
            bytes=self.content(file_id).stat().st_size,
            created_at=now,
            expires_at=now + (keep_s or self._limits.keep_s),
            filename=filename,
            purpose=purpose,
        )
        write(self._path(file_id), made.model_dump_json().encode())
        return made

    def file(self, file_id: str, *, param: str = "file_id") -> FileObject:
        """Return a file, which `param` names. Raises UnknownObject: there is none, or no more."""
        found = read(self._path(file_id), FileObject) if _FILE_ID.fullmatch(file_id) else None
        if found is None or found.expires_at <= time.time():
            raise UnknownObject(f"no such file: {quoted(file_id)}", param=param)
        return found

    def content(self, file_id: str) -> Path:
        """The path of a file's content, which may not be there yet."""
        return self.folder / f"{file_id}.jsonl"

    def files(self) -> list[FileObject]:
        """All files, the oldest first."""
        now = time.time()
        found = (read(path, FileObject) for path in self.folder.glob("file-*.json"))
        kept = [each for each in found if each and each.expires_at > now]
        return sorted(kept, key=lambda each: (each.created_at, each.id))

    def delete_file(self, file_id: str) -> None:
        """Delete a file. Raises UnknownObject: as `file`."""
        self.file(file_id)
        self._path(file_id).unlink(missing_ok=True)
        self.content(file_id).unlink(missing_ok=True)

    def add_batch(
        self, input_file_id: str, metadata: dict[str, str] | None, keep_s: int | None
    ) -> BatchObject:
        """Store a batch, which then runs.

        Raises:
            UnknownObject: There is no such file.
            MalformedRequest: The file is no input of a batch.
            TooLarge: There are too many batches.
            Unavailable: As `add_file`.
        """
        if self.file(input_file_id, param="input_file_id").purpose != "batch":
            raise MalformedRequest(
                "input_file_id: the file's purpose is not `batch`", param="input_file_id"
            )
        now = int(time.time())
        batch = BatchObject(
            id=f"batch_{new_id()}",
            input_file_id=input_file_id,
            created_at=now,
            expires_at=now + WINDOW_S,
            metadata=metadata,
        )
        stored = StoredBatch(
            batch=batch,
            output_id=new_file_id(),
            errors_id=new_file_id(),
            keep_s=keep_s or self._limits.keep_s,
        )
        with writing():
            self._make_place()
            self.put(stored)
        return batch

    def put(self, stored: StoredBatch) -> None:
        """Write a batch anew."""
        write(self._path(stored.batch.id), stored.model_dump_json().encode())

    def batch(self, batch_id: str) -> BatchObject:
        """Return a batch. Raises UnknownObject: none has this id."""
        stored = read(self._path(batch_id), StoredBatch) if _BATCH_ID.fullmatch(batch_id) else None
        if stored is None:
            raise UnknownObject(f"no such batch: {quoted(batch_id)}", param="batch_id")
        return self._shown(stored.batch)

    def stored(self, without: Container[str] = ()) -> list[StoredBatch]:
        """Return all batches without those of these ids, the oldest first."""
        found = (
            read(self._path(each), StoredBatch) for each in self._batch_ids() if each not in without
        )
        return sorted(
            (each for each in found if each),
            key=lambda each: (each.batch.created_at, each.batch.id),
        )

    def batches(self, first: str | None) -> Iterator[BatchObject]:
        """Yield batches as clients see them, the newest first; with `first`, from that id on."""
        ids = sorted(self._batch_ids(), reverse=True)  # ids rise with time
        if first is not None:
            ids = ids[ids.index(first) :] if first in ids else []
        for each in ids:
            if stored := read(self._path(each), StoredBatch):
                yield self._shown(stored.batch)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _batch_ids(self) -> list[str]:
        return [path.stem for path in self.folder.glob("batch_*.json")]

    def cancel(self, batch_id: str) -> BatchObject:
        """Have a batch end soon.

        Raises:
            UnknownObject: None has this id.
            MalformedRequest: It has ended.
            Unavailable: As `add_file`.
        """
        batch = self.batch(batch_id)
        if batch.status in ENDED:
            raise MalformedRequest(f"the batch has ended: its status is {batch.status!r}")
        with writing():
            (self.folder / f"{batch_id}.cancel").touch(mode=0o600)
        return self.batch(batch_id)

    def cancelled_at(self, batch_id: str) -> int | None:
        """When a client cancelled a batch; None: it has not."""
        try:
            return int((self.folder / f"{batch_id}.cancel").stat().st_mtime)
        except OSError:
            return None

    def purge(self) -> None:
        """See `Store.purge`."""
        now, keep_s = time.time(), self._limits.keep_s
        kept = {each.id for each in self.files()}
        for each in self.stored():
            if each.batch.status not in ENDED:
                kept |= {each.output_id, each.errors_id}
            elif each.batch.created_at + keep_s <= now:
                self._path(each.batch.id).unlink(missing_ok=True)
        kept.update(self._batch_ids())
        for path in self.folder.iterdir():
            if path.stem not in kept and _age(path, now) > _LEFT_S:
                path.unlink(missing_ok=True)

    def _shown(self, batch: BatchObject) -> BatchObject:
        asked = self.cancelled_at(batch.id)
        if asked is None or batch.status in ENDED:
            return batch
        return batch.model_copy(update={"status": "cancelling", "cancelling_at": asked})

    def _make_place(self) -> None:
        """Delete ended batches without files, where there is no place for one more batch."""
        if len(self._batch_ids()) >= self._limits.objects:
            for each in self.stored():
                if each.batch.status in ENDED and not self._has_files(each.batch):
                    self._path(each.batch.id).unlink(missing_ok=True)
        self._check_number("batch_", "batches: delete all files of one that has ended, or wait")

    def _has_files(self, batch: BatchObject) -> bool:
        ids = (batch.input_file_id, batch.output_file_id, batch.error_file_id)
        return any(self._path(each).exists() for each in ids if each)

    def _check_number(self, prefix: str, what: str) -> None:
        most = self._limits.objects
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if sum(1 for _ in self.folder.glob(f"{prefix}*.json")) >= most:
            raise TooLarge(f"the limit (GATEWAY_BATCH_MAX_FILES) is {most:,} {what}")


def new_file_id() -> str:
    """A new id of a file; they rise with time."""
    return f"file-{new_id()}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
