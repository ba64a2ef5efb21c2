"""Webdataset tars, as img2dataset writes them: KEY.jpg, KEY.txt and KEY.json side by side."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from openclip_triton.bulk import metadata
from openclip_triton.bulk.listing import EXTENSIONS
from openclip_triton.bulk.samples import IMAGES, TEXTS, Input, Kind, Partition, Problem, Sample
from openclip_triton.bulk.storage import storage_of
from openclip_triton.values import StreamSettings

IMAGE_ENDINGS = frozenset(EXTENSIONS)
TEXT_ENDING = "txt"
METADATA_ENDING = "json"
ENDINGS = (".tar", ".tar.gz", ".tgz")
MAX_BYTES = StreamSettings().max_item_bytes  # of an image or a text: the stream refuses more

_TORN = (EOFError, gzip.BadGzipFile, zlib.error)  # of a compressed tar


class _Broken(Exception):
    """The tar ends too early, or is not one."""

    def __init__(self, message: str, key: str | None) -> None:
        super().__init__(message)
        self.key = key  # of what is lost: a sample, or the tar; None: the sample before


@dataclass(frozen=True, slots=True)
class TarPart(Partition):
    """One tar. Samples that lack a part, come twice or are cut off are problems."""

    images: bool  # whether to read them
    texts: bool
    metadata: bool

    def samples(self) -> Iterator[Sample]:
        """Read the samples, in the order of the tar."""
        seen: set[str] = set()
        for sample in self._grouped():
            if sample.key in seen:
                problem = Problem("duplicate_key", "the tar has an earlier sample of this key")
                yield Sample(sample.key, problem=problem)
                continue
            seen.add(sample.key)
            yield self._complete(sample)

    def _complete(self, sample: Sample) -> Sample:
        problem = sample.problem
        if problem is not None:
            return sample
        if self.images and sample.image is None:
            problem = Problem("no_image", "the tar has no image")
        elif self.texts and sample.text is None:
            problem = Problem("no_caption", "the tar has no caption")
        elif self.metadata and sample.metadata is None:
            problem = Problem("no_metadata", "the tar has no .json")
        return replace(sample, problem=problem)

    def _grouped(self) -> Iterator[Sample]:
        """Join neighbouring members of one key.

        The set of samples does not depend on the parts that are read: two jobs over one tar must
        agree.
        """
        sample: Sample | None = None
        endings: set[str] = set()
        try:
            for key, ending, data in self._members():
                if sample is None or key != sample.key or ending in endings:
                    if sample is not None:
                        yield sample
                    sample = Sample(key)
                    endings = set()
                endings.add(ending)
                if data is None:
                    continue
                if ending == TEXT_ENDING:
                    sample = replace(sample, text=data.decode(errors="surrogateescape"))
                elif ending == METADATA_ENDING:
                    sample = _with_metadata(sample, data)
                elif sample.image is None:
                    sample = replace(sample, image=data)
        except _Broken as error:
            if sample is not None and error.key not in (None, sample.key):
                yield sample
            key = error.key or (sample.key if sample else self.source)
            sample = Sample(key, problem=Problem("broken_tar", str(error)))
        if sample is not None:
            yield sample

    def _members(self) -> Iterator[tuple[str, str, bytes | None]]:
        """Yield key, ending and content of each file; content that is not needed is None."""
        with ExitStack() as stack:
            file = stack.enter_context(storage_of(self.source).open(self.source))
            if self.source.lower().endswith("gz"):
                # For reading, the type is that of a binary file.
                file = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=file)))
            try:
                tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
                yield from self._read(tar, file)
            except (tarfile.TarError, *_TORN) as error:
                raise _Broken(f"not a whole tar: {error}", None) from error

    def _reads(self, ending: str) -> bool:
        others = {TEXT_ENDING: self.texts, METADATA_ENDING: self.metadata}
        return others.get(ending, self.images and ending in IMAGE_ENDINGS)

    def _read(
        self, tar: tarfile.TarFile, file: BinaryIO
    ) -> Iterator[tuple[str, str, bytes | None]]:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it keeps every member otherwise
            folder, slash, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            if not member.isreg() or not dot or not stem:
                continue
            key, ending = folder + slash + stem, ending.lower()
            data = None
            if self._reads(ending):
                most = metadata.MAX_BYTES if ending == METADATA_ENDING else MAX_BYTES
                size = min(member.size, most + 1)
                data = _content(file, member.offset_data, size)
                if len(data) < size:
                    raise _Broken(f"the tar ends in the middle of {member.name}", key)
            yield key, ending, data
        file.seek(tar.offset)
        end = file.read(tarfile.BLOCKSIZE)
        if len(end) < tarfile.BLOCKSIZE:
            raise _Broken("the tar has no end mark: it may be cut off", self.source)
        if any(end):
            raise _Broken(f"the tar is damaged at byte {tar.offset:,}", self.source)


def _with_metadata(sample: Sample, data: bytes) -> Sample:
    try:
        return replace(sample, metadata=metadata.checked(data))
    except ValueError as error:
        return replace(sample, problem=Problem("invalid_metadata", str(error)))


def _content(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read a member straight from the file: half the time of the library's own file objects."""
    try:
        file.seek(offset)
        return file.read(size)
    except _TORN:
        return b""


@dataclass(frozen=True)
class Tar(Input):
    """A tar, which is one partition."""

    path: str
    kinds: tuple[Kind, ...]  # that the job embeds
    metadata: bool = False  # whether to read it

    def partitions(self) -> Iterator[Partition]:
        """List the only one."""
        version = storage_of(self.path).stamp(self.path)
        images, texts = IMAGES in self.kinds, TEXTS in self.kinds
        yield TarPart(self.path, version, None, images, texts, self.metadata)
