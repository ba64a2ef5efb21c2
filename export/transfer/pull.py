"""Copies a model from a place into a repository, and publishes it as an export does."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from export.errors import TransferError
from export.publish.leftovers import CONFIG, encoders_of
from export.publish.repository import check_batch, next_version, publish, published
from export.publish.writer import locked, staging
from export.storage.durable import link
from export.storage.place import Place, place_at, read
from export.tensorrt.compatibility import PLAN, check_platform, platforms_here, read_platform
from export.tensorrt.errors import PlanError
from export.transfer import index
from gateway.models.manifest import Manifest


def pull(
    root: Path, address: str, version: int | None, report: Callable[[str], None]
) -> tuple[Manifest, bool]:
    """Publish the model of a place, unless it is published already.

    Args:
        root: The model repository.
        address: A folder, or a URL.
        version: Its number here, which keeps the version served before; None: the next number,
            in place of that version.
        report: Called with a line for each file that is copied.

    Returns:
        The manifest here, and whether it is new.

    Raises:
        TransferError: The place cannot be read, or its files are not those of its index.
        PlanError: A TensorRT plan cannot run here.
        RepositoryError: The model cannot be published here; see `publish`.
    """
    place = place_at(address)
    found = index.read_index(read(place, index.NAME, index.MAX_BYTES), str(place))
    theirs = found.manifest
    with locked(root):
        ours = published(root, theirs.id)
        if (
            ours
            and version in (None, ours.version)
            and index.renumbered(theirs, ours.version) == ours
        ):
            return ours, False
        number = next_version(
            root, theirs.id, theirs.preprocessing.image_size, theirs.embedding_size, version
        )
        if version is not None:
            check_batch(root, theirs.id, theirs.triton.image.max_batch)
        manifest = index.renumbered(theirs, number)
        with staging(root) as staged:
            _check_space(place, found, root)
            _fetch_all(place, found, staged, number, report)
            publish(root, staged, manifest, keep=version is not None)
    return manifest, True


def _check_space(place: Place, found: index.Index, root: Path) -> None:
    needed = sum({each.sha256: each.size for each in found.files.values()}.values())
    free = shutil.disk_usage(root).free
    if needed > free:
        raise TransferError(
            f"{place}: takes {needed / 1e6:.0f} MB, but {root} has {free / 1e6:.0f} MB left"
        )


def _fetch_all(
    place: Place, found: index.Index, staged: Path, number: int, report: Callable[[str], None]
) -> None:
    """Fetch each content once, the small ones first: they tell whether a plan can run here."""
    here: dict[str, Path] = {}
    for path, file in sorted(found.files.items(), key=lambda item: item[1].size):
        target = staged / index.moved(path, found.manifest, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name == PLAN:
            _check_plan(target, f"{place}: {path}")
        if file.sha256 in here:
            link(here[file.sha256], target)
            continue
        report(f"{path}: {file.size:,} bytes")
        _fetch(place, path, file, target)
        here[file.sha256] = target
    for encoder in encoders_of(found.manifest):
        index.check_config(staged / encoder / CONFIG, found.manifest.runtime, str(place))


def _fetch(place: Place, path: str, file: index.File, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as out, closing(place.chunks(file.name)) as chunks:
        for chunk in chunks:
            size += len(chunk)
            if size > file.size:
                raise TransferError(
                    f"{place}: {path} ({file.name}) is larger than the {file.size} bytes that the "
                    "index names; nothing published"
                )
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != file.sha256:
        raise TransferError(
            f"{place}: {path} ({file.name}) does not match the SHA-256 that the index names; "
            "delete that file there, and push the model again; nothing published"
        )


def _check_plan(plan: Path, name: str) -> None:
    try:
        built = read_platform(plan)
        for here in platforms_here():
            check_platform(built, here)
    except PlanError as error:
        raise type(error)(f"{name}: {error}") from error
