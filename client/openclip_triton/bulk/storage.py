"""Files on this machine, or below any URL that fsspec opens.

What cannot be read, written or removed is an OSError, whatever the library raises.
"""

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from openclip_triton.bulk.errors import JobError

D = TypeVar("D", bound="Draft")

BUFFER = 2**20  # bytes read at once of a file on this machine
READ_AHEAD = 8 * 2**20  # and of one below a URL
# The extra with the package that opens a scheme.
_EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az",
    "http": "https", "https": "https",
}  # fmt: skip
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_STAMPS = (
    "ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "mtime", "LastModified",
    "last_modified", "Last-Modified", "updated", "created",
)  # fmt: skip


class Draft:
    """A file in a temporary place, which appears under its name once it is published.

    As a context manager, it is published at the end, and discarded after an error.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._storage = storage_of(path)
        self.temporary = self._storage.draft(path)

    def __enter__(self: D) -> D:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        try:
            if error is None:
                self.close()
                self.publish()
        finally:
            self.discard()

    def close(self) -> None:
        """Complete the file."""

    def publish(self) -> None:
        """Make the complete file appear under its name."""
        self._storage.publish(self.temporary, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        self.temporary.unlink(missing_ok=True)


class Local:
    """The file systems of this machine. `Remote` has the same methods."""

    def is_file(self, path: str) -> bool:
        """Whether a file is there."""
        return Path(path).is_file()

    def is_folder(self, path: str) -> bool:
        """Whether a folder is there."""
        return Path(path).is_dir()

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted; empty if it is not there."""
        try:
            with os.scandir(folder) as found:
                return sorted(entry.name for entry in found if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, sorted."""
        return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute

    def stamp(self, path: str) -> str:
        """Size and time of the last change of a file: changes with its content."""
        status = os.stat(path)  # noqa: PTH116 - millions of files: no Path for each
        return f"{status.st_size}:{status.st_mtime_ns}"

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        return Path(path).open("rb", BUFFER)

    def draft(self, path: str) -> Path:
        """Name a file to write to, next to `path`; `publish` makes it `path`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(path + ".new")

    def publish(self, draft: Path, path: str) -> None:
        """Sync the draft to disk, and replace any file of its name."""
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        Path(path).unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        shutil.rmtree(path, ignore_errors=True)


class Remote:
    """An fsspec file system, by paths with its scheme."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    @property
    def _files(self) -> Any:  # noqa: ANN401 - fsspec has no types
        """The file system, which fsspec keeps."""
        import fsspec  # takes 0.1 s, so only if there are URLs

        try:
            return fsspec.filesystem(self.protocol)
        except (ImportError, ValueError) as error:
            why = str(error)
            if isinstance(error, ImportError) and self.protocol in _EXTRAS:
                why += f": pip install 'openclip-triton-client[{_EXTRAS[self.protocol]}]'"
            raise JobError(f"{self.protocol}:// cannot be opened: {why}") from error

    def _url(self, path: str) -> str:
        """Restore the scheme that the user gave: a library with several prefers another."""
        return f"{self.protocol}://{self._files.unstrip_protocol(path).partition('://')[2]}"

    def is_file(self, path: str) -> bool:
        """Whether a file is there."""
        with _as_os_errors(path):
            return not path.endswith("/") and bool(self._files.isfile(path))

    def is_folder(self, path: str) -> bool:
        """Whether anything is below the path; on a web server, whether the path ends in a slash."""
        if self.protocol in ("http", "https"):
            return path.endswith("/")  # a query would fetch the whole file
        with _as_os_errors(path):
            return bool(self._files.isdir(path))

    def names(self, folder: str) -> list[str]:
        """Names of the objects directly below a path, sorted."""
        with _as_os_errors(folder):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(folder, detail=True)
            except FileNotFoundError:
                return []
            return sorted(e["name"].rpartition("/")[2] for e in found if e["type"] == "file")

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, sorted."""
        with _as_os_errors(pattern):
            return sorted(map(self._url, self._files.glob(pattern)))

    def below(self, folder: str) -> list[tuple[str, str]]:
        """Paths and stamps of all objects below a path, sorted; one listing."""
        with _as_os_errors(folder):
            found = self._files.find(folder, detail=True)
        return [(self._url(path), _stamp(found[path])) for path in sorted(found)]

    def stamp(self, path: str) -> str:
        """Size, and tag or time: changes with the content."""
        with _as_os_errors(path):
            return _stamp(self._files.info(path))

    def open(self, path: str) -> BinaryIO:
        """Open an object, read ahead in large blocks."""
        with _as_os_errors(path):
            opened: BinaryIO = self._files.open(
                path, "rb", block_size=READ_AHEAD, cache_type="readahead"
            )
            return opened

    def draft(self, path: str) -> Path:
        """Name a temporary file on this machine."""
        descriptor, name = tempfile.mkstemp(prefix="openclip-triton-")
        os.close(descriptor)
        return Path(name)

    def publish(self, draft: Path, path: str) -> None:
        """Upload the draft; object stores show an upload only once it is complete."""
        with _as_os_errors(path):
            self._files.put_file(str(draft), path)
        draft.unlink()

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        with _as_os_errors(path):
            if self._files.exists(path):
                self._files.rm_file(path)

    def remove_folder(self, path: str) -> None:
        """Remove all objects below a path."""
        with _as_os_errors(path):
            if self._files.exists(path):
                self._files.rm(path, recursive=True)


@contextmanager
def _as_os_errors(path: str) -> Iterator[None]:
    """Translate the errors of many libraries to OSError."""
    try:
        yield
    except FileNotFoundError as error:  # its message may only name the path
        raise FileNotFoundError(f"{path} does not exist") from error
    except (OSError, JobError):
        raise
    except Exception as error:
        raise OSError(f"{path}: {error}") from error


def _stamp(info: dict[str, Any]) -> str:
    changed = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
    return f"{info.get('size')}:{changed}"


def numbers(folder: str, start: str, end: str) -> list[str]:
    """What is between the start and the end of the names of the folder's files, sorted."""
    names = storage_of(folder).names(folder)
    found = (name for name in names if name.startswith(start) and name.endswith(end))
    return [name.removeprefix(start).removesuffix(end) for name in found]


def is_url(path: str) -> bool:
    """Whether a path has a URL's scheme."""
    return _URL.match(path) is not None


def storage_of(path: str) -> Local | Remote:
    """Choose the storage of a path."""
    found = _URL.match(path)
    return Remote(found[1].lower()) if found else Local()


def read(path: str) -> bytes:
    """Read a whole file."""
    with _as_os_errors(path), storage_of(path).open(path) as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """Write a file that appears only once complete."""
    with Draft(path) as draft:
        draft.temporary.write_bytes(data)


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    storage_of(path).remove(path)
