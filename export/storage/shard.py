"""The samples of a shard: a tar with `KEY.ENDING` files of one key side by side."""

import re
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from export.errors import ExportError, brief
from export.storage.place import Content, Place

MAX_MEMBER = 32 * 2**20  # bytes of a file, as of an image that is served
_HEADERS = 2**16  # bytes in addition: headers, padding and read-ahead
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)  # key and ending, as webdataset has


@dataclass(frozen=True, slots=True)
class Sample:
    """Files of one key, by ending in lower case."""

    where: str  # the place, the shard and the key
    files: dict[str, bytes]


def samples(place: Place, name: str) -> Iterator[Sample]:
    """Read the samples of a shard in order, holding one at a time.

    Raises:
        MissingError: The shard is not there.
        ExportError: It is unreadable, not a complete tar, or has a file over `MAX_MEMBER`.
    """
    where = f"{place}: {name}"
    with closing(place.chunks(name)) as chunks:
        key, files = "", dict[str, bytes]()
        for found, ending, content in _members(_Stream(chunks, where), where):
            if found != key and files:
                yield Sample(f"{where}: {key}", files)
                files = {}
            key = found
            if ending in files:
                raise ExportError(f"{where}: {key}.{ending} is there twice")
            files[ending] = content
        if files:
            yield Sample(f"{where}: {key}", files)


class _Stream:
    """A file that is read forward, with a limit on the bytes between two members."""

    def __init__(self, chunks: Content, where: str) -> None:
        self._chunks = chunks
        self._where = where
        self._held = bytearray()
        self._left = MAX_MEMBER + _HEADERS
        self.last = b""  # what was read last

    def next_member(self) -> None:
        """Allow another member."""
        self._left = MAX_MEMBER + _HEADERS

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end."""
        while len(self._held) < size and (chunk := next(self._chunks, b"")):
            self._held += chunk
        found = bytes(self._held[:size])
        del self._held[:size]
        self._left -= len(found)
        if self._left < 0:
            raise ExportError(f"{self._where}: has a file of more than {MAX_MEMBER:,} bytes")
        self.last = found or self.last
        return found


def _members(stream: _Stream, where: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, ending and content of each file."""
    try:
        # A stream cannot go back, however wrong the sizes are that a header names.
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]  # what it needs of a file
            while (member := tar.next()) is not None:
                tar.members.clear()  # it keeps every member otherwise
                parts = _NAME.fullmatch(member.name)
                if parts and member.isreg() and not member.issparse():
                    if member.size > MAX_MEMBER:
                        raise ExportError(
                            f"{where}: {member.name} has {member.size:,} bytes; at most "
                            f"{MAX_MEMBER:,} are read"
                        )
                    file = tar.extractfile(member)
                    yield parts[1], parts[2].lower(), file.read() if file else b""
                stream.next_member()
    except ExportError:
        raise
    except Exception as error:  # a bad header makes tarfile raise nearly anything
        raise ExportError(f"{where}: cannot be read as a tar: {brief(error)}") from error
    if any(stream.last[-tarfile.BLOCKSIZE :]):
        raise ExportError(f"{where}: the tar is cut off: it has no end mark")
