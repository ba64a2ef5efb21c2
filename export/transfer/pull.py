"""Copies a model from a place into a repository, and publishes it like an export."""

import hashlib
import shutil
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

from export.errors import TransferError
from export.publish.leftovers import CONFIG, encoders_of
from export.publish.repository import check_batch, next_version, publish, published
from export.publish.writer import locked, staging
from export.storage.durable import link
from export.storage.place import Place, place_at, read
from export.tensorrt.compatibility import PLAN, PLATFORM_SUFFIX
from export.transfer import index, plans
from gateway.models.manifest import Manifest, ManifestError
from gateway.models.registry import Model


def pull(
    root: Path, address: str, version: int | None, report: Callable[[str], None]
) -> tuple[Manifest, bool]:
    """Publish the model of a place, unless it is published already.

    TensorRT plans that do not run here are not copied, but built from the model's graphs.

    Args:
        root: The model repository.
        address: A folder, or a URL.
        version: Its number here, keeping the previously served version; None: the next number,
        replacing that version.
        report: Called with a line for each file that is copied.

    Returns:
        The manifest here, and whether it is new.

    Raises:
        TransferError: The place cannot be read, or its files are not those of its index.
        PlanError: A TensorRT plan cannot run here, nor be built here.
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
            and plans.same_model(index.renumbered(theirs, ours.version), ours)
            and not plans.outdated(root, ours)
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
            builder = _fetch_model(place, found, staged, number, report)
            if builder:
                manifest = builder.build(staged, manifest, root, report)
            _check_loads(manifest, staged, place)
            publish(root, staged, manifest, keep=version is not None)
    return manifest, True


def _check_loads(manifest: Manifest, staged: Path, place: Place) -> None:
    """Load the model as a gateway does; one broken model would keep it from serving any."""
    try:
        Model.load(manifest, staged)
    except ManifestError as error:
        raise TransferError(f"{place}: {error}; nothing published") from error


def _check_space(place: Place, found: index.Index, root: Path) -> None:
    needed = sum({each.sha256: each.size for each in found.files.values()}.values())
    free = shutil.disk_usage(root).free
    if needed > free:
        raise TransferError(
            f"{place}: takes {needed / 1e6:.0f} MB, but {root} has {free / 1e6:.0f} MB left"
        )


def _fetch_model(
    place: Place, found: index.Index, staged: Path, number: int, report: Callable[[str], None]
) -> plans.PlanBuilder | None:
    """Fetch the platforms of plans first, which decide whether plans are fetched or built."""
    first = {path for path in found.files if path.endswith(PLAN + PLATFORM_SUFFIX)}
    manifest = index.renumbered(found.manifest, number)
    _fetch_all(place, found, first, staged, number, report)
    builder = plans.builder_for(staged, manifest, str(place))
    rest = found.files.keys() - first
    if builder:
        rest = {path for path in rest if Path(path).name != PLAN}
    _fetch_all(place, found, rest, staged, number, report)
    for encoder in encoders_of(manifest):
        index.check_config(staged / encoder / CONFIG, manifest.runtime, str(place))
    return builder


def _fetch_all(
    place: Place,
    found: index.Index,
    paths: Collection[str],
    staged: Path,
    number: int,
    report: Callable[[str], None],
) -> None:
    """Fetch each distinct file once, small ones first."""
    here: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: found.files[path].size):
        file, target = found.files[path], staged / index.moved(path, found.manifest, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.sha256 in here:
            link(here[file.sha256], target)
            continue
        report(f"{path}: {file.size:,} bytes")
        _fetch(place, path, file, target)
        here[file.sha256] = target


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
