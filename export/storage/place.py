"""A place that holds one model: a folder, a web server, or any fsspec file system."""

import re
import shutil
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from export.errors import MissingError, TransferError, brief
from export.storage.durable import sync

CHUNK = 2**20  # bytes
READ_AHEAD = 8 * 2**20  # bytes that fsspec reads at once
# Of httpx2. Compressed answers could be larger than they seem.
_OPTIONS: dict[str, Any] = {
    "headers": {"accept-encoding": "identity"}, "timeout": 60.0, "follow_redirects": True,
}  # fmt: skip
Content = Generator[bytes, None, None]
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*@")


class Place(Protocol):
    """Files by name. Each method raises TransferError, with the name of the place."""

    def chunks(self, name: str) -> Content:
        """The content of a file; raises MissingError if it is not there."""

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, or None if it is not there."""

    def put(self, name: str, source: Path) -> None:
        """Write a file atomically, replacing an existing one."""


def place_at(address: str) -> Place:
    """The place at a folder's path or a URL.

    Raises:
        TransferError: No installed package opens such a URL; names the missing one.
    """
    found = _URL.match(address)
    if not found:
        return Folder(Path(address))
    return Web(address) if found[1].lower() in ("http", "https") else Store(address)


def read(place: Place, name: str, limit: int) -> bytes:
    """Read a small file.

    Raises:
        MissingError: It is not there.
        TransferError: It cannot be read, or is larger than `limit` bytes.
    """
    content = b""
    with closing(place.chunks(name)) as chunks:
        for chunk in chunks:
            content += chunk
            if len(content) > limit:
                raise TransferError(f"{place}: {name}: is larger than {limit} bytes")
    return content


class Folder:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def chunks(self, name: str) -> Content:
        """The content of a file."""
        path = self._root / name
        with _clear(self, name):
            if path.exists() and not path.is_file():
                raise OSError("is not a file")  # reading a pipe could block
        with _clear(self, name), path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def size(self, name: str) -> int | None:
        """Size of a file in bytes."""
        path = self._root / name
        with _clear(self, name):
            return path.stat().st_size if path.is_file() else None

    def put(self, name: str, source: Path) -> None:
        """Copy a file, and give it its name once it is on the disk."""
        path = self._root / name
        draft = path.with_name(f".{path.name}.part")
        with _clear(self, name):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, draft)
            sync(draft)
            draft.replace(path)
            sync(path.parent)


class Web:
    """A web server: GET and, to push, HEAD and PUT."""

    def __init__(self, address: str) -> None:
        import httpx2  # with fsspec it takes 0.2 s

        with _clear(address.rpartition("@")[2]):
            self._url = httpx2.URL(address)
        self._call = partial(httpx2.request, **_OPTIONS)
        self._stream = partial(httpx2.stream, **_OPTIONS)

    def __str__(self) -> str:
        return str(self._url.copy_with(username=None, password=None, query=None))

    def chunks(self, name: str) -> Content:
        """The content of a file."""
        with _clear(self, name), self._stream("GET", self._at(name)) as answer:
            _check(answer.status_code)
            yield from answer.iter_raw(CHUNK)

    def size(self, name: str) -> int | None:
        """Size of a file in bytes."""
        with _clear(self, name):
            answer = self._call("HEAD", self._at(name))
        length = answer.headers.get("content-length")
        return int(length) if answer.is_success and length else None

    def put(self, name: str, source: Path) -> None:
        """Upload a file."""
        with _clear(self, name), source.open("rb") as file:
            _check(self._call("PUT", self._at(name), content=file).status_code)

    def _at(self, name: str) -> Any:  # noqa: ANN401 - httpx2.URL, which is imported late
        return self._url.copy_with(path=f"{self._url.path.rstrip('/')}/{name}")


class Store:
    """A folder of an fsspec file system, such as a bucket or a repository of a hub."""

    def __init__(self, address: str) -> None:
        import fsspec

        self._address = address.rstrip("/")
        with _clear(self):
            self._files, self._root = fsspec.core.url_to_fs(self._address)

    def __str__(self) -> str:
        return _PASSWORD.sub(r"\1@", self._address)

    def chunks(self, name: str) -> Content:
        """The content of a file."""
        with (
            _clear(self, name),
            self._files.open(f"{self._root}/{name}", "rb", block_size=READ_AHEAD) as file,
        ):
            while chunk := file.read(CHUNK):
                yield chunk

    def size(self, name: str) -> int | None:
        """Size of a file in bytes."""
        with _clear(self, name):
            try:
                return int(self._files.info(f"{self._root}/{name}")["size"])
            except FileNotFoundError:
                return None

    def put(self, name: str, source: Path) -> None:
        """Upload a file; such stores show an upload only once it is complete."""
        with _clear(self, name):
            self._files.put_file(str(source), f"{self._root}/{name}")


@contextmanager
def _clear(where: object, name: str = "") -> Iterator[None]:
    """Translate the errors of many libraries to TransferError."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingError(f"{where}: {name} is not there ({brief(error)})") from error
    except Exception as error:
        raise TransferError(": ".join(filter(None, (str(where), name, brief(error))))) from error


def _check(status: int) -> None:
    if status in (404, 410):
        raise FileNotFoundError(f"HTTP {status}")
    if not 200 <= status < 300:
        raise OSError(f"HTTP {status}")
