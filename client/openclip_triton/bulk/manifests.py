"""Manifests: the content, the input and the model of each finished partition of an output."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from openclip_triton.bulk import storage
from openclip_triton.bulk.errors import JobError
from openclip_triton.bulk.samples import Kind
from openclip_triton.values import Space

VERSION = 1
READS = 16  # manifests read at once


@dataclass(frozen=True, slots=True)
class Settings(Space):
    """The common properties of all vectors of an output."""

    dtype: str
    truncate: bool
    metadata: bool = False  # whether it has columns in the output


@dataclass(frozen=True, slots=True)
class Failure:
    """A sample without a vector."""

    position: int  # in the partition, from 0
    key: str
    code: str
    reason: str
    retry: bool  # whether a later run may succeed


@dataclass(slots=True)
class Manifest:
    """One half of a finished partition.

    The samples at `dropped` have no row in either half. Failures that are not dropped are rows of
    zeros: the other half had a row for them already.
    """

    source: str  # the partition's
    version: str  # of its content
    settings: Settings
    items: int = 0
    rows: int = 0
    truncated: int = 0
    dropped: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Head:
    """A manifest without its lists."""

    source: str
    version: str
    settings: Settings
    items: int
    rows: int
    truncated: int
    failed: int
    left_out: int  # dropped only by the other half
    retry: bool  # whether a failure may be temporary


class Manifests:
    """The manifests of an output, in the folder `manifests`."""

    def __init__(self, root: str) -> None:
        self.folder = f"{root}/manifests"

    def path(self, kind: Kind, name: str) -> str:
        """Name the manifest of a half; `name` is the partition's number, as in its files' names."""
        return f"{self.folder}/{kind.folder}_{name}.json"

    def heads(self, kind: Kind) -> dict[str, Head]:
        """Read all manifests of a half, by number.

        Raises:
            JobError: One is not a manifest.
            OSError: One cannot be read.
        """
        names = storage.numbers(self.folder, f"{kind.folder}_", ".json")
        with ThreadPoolExecutor(READS) as pool:
            heads = pool.map(lambda name: head_of(self.read(kind, name)), names)
            return dict(zip(names, heads, strict=True))

    def read(self, kind: Kind, name: str) -> Manifest:
        """Read a manifest.

        Raises:
            JobError: It is not one.
            OSError: It cannot be read.
        """
        path = self.path(kind, name)
        try:
            found: dict[str, Any] = json.loads(storage.read(path))
            if found.pop("format") != VERSION:
                raise JobError(f"{path} was written by another version of this command")
            found["settings"] = Settings(**found["settings"])
            found["failures"] = [Failure(**failure) for failure in found["failures"]]
            return Manifest(**found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise JobError(f"{path} is not a manifest of this command") from error

    def write(self, kind: Kind, name: str, manifest: Manifest) -> None:
        """Write a manifest: from now on, the half is finished."""
        found = {"format": VERSION, **asdict(manifest)}
        storage.write(self.path(kind, name), json.dumps(found, indent=1).encode())

    def remove(self, kind: Kind, name: str) -> None:
        """Remove a manifest: from now on, the half is unfinished."""
        storage.remove(self.path(kind, name))

    def failures(self, kind: Kind, names: list[str]) -> Iterator[Failure]:
        """Yield the failures of partitions, in order."""
        for name in names:
            yield from self.read(kind, name).failures


def head_of(manifest: Manifest) -> Head:
    """Drop the lists of a manifest."""
    failed = {failure.position for failure in manifest.failures}
    return Head(
        manifest.source,
        manifest.version,
        manifest.settings,
        manifest.items,
        manifest.rows,
        manifest.truncated,
        len(failed),
        len(set(manifest.dropped) - failed),
        any(failure.retry for failure in manifest.failures),
    )
