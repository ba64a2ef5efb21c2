"""Publishes a model in a Triton model repository, or removes it, safely even if it crashes.

All files go to a staging folder first, with a plan: the paths that publishing adds and removes.
Then the version folders are renamed into place, `config.pbtxt` and tokenizer follow, and the
manifest comes last: only then is the new version served. Paths in the plan that no manifest names
are deleted now or, after a crash, by the next run.

The previous version may be kept: its manifest gets another name, and its folders stay. See
`export/versions.py`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from export.errors import RepositoryError
from export.publish.leftovers import (
    CONFIG,
    PLAN,
    encoders_of,
    kept,
    kept_file,
    manifest_text,
    paths_of,
    read,
)
from export.publish.writer import locked, staging
from export.storage.durable import sync, sync_tree, write
from gateway.models.manifest import SUFFIX, Manifest
from gateway.models.variants import find_variants


def published(root: Path, model_id: str) -> Manifest | None:
    """Read the manifest published under an id, or None.

    Raises:
        RepositoryError: It exists, but cannot be read.
    """
    path = root / f"{model_id}{SUFFIX}"
    return read(path) if path.exists() else None


def find_published(
    root: Path, model: str, pretrained: str | None, precisions: Sequence[str]
) -> list[str | None]:
    """The id under which a model is published in each precision, or None; see `find_variants`.

    Raises:
        RepositoryError: A manifest cannot be read.
    """
    found = find_variants(map(read, root.glob(f"*{SUFFIX}")), model, pretrained, precisions)
    return [None if each is None else each.id for each in found]


def next_version(
    root: Path, model_id: str, image_size: int, embedding_size: int, wanted: int | None = None
) -> int:
    """The number of a new version under this id: `wanted`, or the next.

    Raises:
        RepositoryError: Inputs or outputs differ from the published model, which would break
            clients; or the number is taken.
    """
    previous = published(root, model_id)
    if previous is None:
        return wanted or 1
    old = (previous.preprocessing.image_size, previous.embedding_size)
    if old != (image_size, embedding_size):
        raise RepositoryError(
            f"{model_id}: published with pictures of {old[0]} pixels and vectors of {old[1]}, but "
            f"this model has {image_size} and {embedding_size}; choose another --id, or remove "
            f"the old one with `python -m export --remove {model_id}`"
        )
    taken = {previous.version, *(manifest.version for manifest in kept(root, model_id))}
    if wanted in taken:
        raise RepositoryError(
            f"{model_id}: there is a version {wanted} already; give a --version over {max(taken)}, "
            f"or look at `python -m export.versions {model_id}`"
        )
    return wanted or max(taken) + 1


def check_batch(root: Path, model_id: str, max_batch: int) -> None:
    """Check that a new version has the batch size of the version to keep.

    Raises:
        RepositoryError: It differs, but both share one `config.pbtxt`.
    """
    previous = published(root, model_id)
    if previous is None:
        return
    before = previous.triton.image.max_batch
    if before != max_batch:
        raise RepositoryError(
            f"{model_id}: version {previous.version}, which is kept, has batches of {before}; "
            f"give --max-batch {before}, or leave out --version"
        )


def publish(root: Path, staged: Path, manifest: Manifest, *, keep: bool = False) -> None:
    """Publish a staged model under its id.

    Args:
        root: The repository, locked.
        staged: Folder with `<encoder>/config.pbtxt` and `<encoder>/<version>/` for each encoder,
            the tokenizer's file and the card.
        manifest: Describes the model.
        keep: Whether to keep the previously served version.

    Raises:
        RepositoryError: A folder of no published model is in the way; or the version to keep has
        another batch size, but all versions share one `config.pbtxt`.
    """
    previous = published(root, manifest.id)
    if keep:
        check_batch(root, manifest.id, manifest.triton.image.max_batch)
    encoders, known = encoders_of(manifest), encoders_of(previous) if previous else {}
    for encoder in sorted(encoders.keys() - known.keys()):
        if (root / encoder).exists():
            raise RepositoryError(
                f"{root / encoder}: in the way, but of no published model; move it or choose "
                "another --id"
            )
    gone = previous if previous and not keep else None
    plan = [*paths_of(manifest), *(paths_of(gone) if gone else ())]
    (staged / PLAN).write_text(json.dumps(plan))
    sync_tree(staged)
    # Clients use the old version until the manifest changes, so its batches must fit.
    first = {encoder for encoder, batch in encoders.items() if batch >= known.get(encoder, 0)}
    for encoder in encoders:
        (root / encoder).mkdir(exist_ok=True)
        version = Path(encoder) / str(manifest.version)
        (staged / version).rename(root / version)
    _replace_configs(root, staged, first)
    for name in filter(None, (manifest.tokenizer.file, manifest.card)):
        (staged / name).rename(root / name)
    if keep and previous:
        write(staged, root / kept_file(previous), manifest_text(previous))
    for encoder in encoders:
        sync(root / encoder)
    sync(root)
    write(staged, root / f"{manifest.id}{SUFFIX}", manifest_text(manifest))
    if gone:
        (root / kept_file(gone)).unlink(missing_ok=True)
    sync(root)
    _replace_configs(root, staged, encoders.keys() - first)


def remove(root: Path, *model_ids: str) -> None:
    """Remove published models, each one's manifest before its files.

    Raises:
        RepositoryError: One of them is not published, and none is removed; or one cannot be
            deleted.
    """
    if not root.is_dir():
        raise RepositoryError(f"{root}: no such model repository")
    with locked(root):
        found = {model_id: published(root, model_id) for model_id in model_ids}
        unknown = [repr(model_id) for model_id, manifest in found.items() if manifest is None]
        if unknown:
            known = sorted(path.name.removesuffix(SUFFIX) for path in root.glob(f"*{SUFFIX}"))
            raise RepositoryError(
                f"{root}: no model {' or '.join(unknown)} is published here; there is "
                f"{', '.join(known) or 'none'}; nothing removed"
            )
        for manifest in filter(None, found.values()):
            _remove(root, manifest)


def _remove(root: Path, manifest: Manifest) -> None:
    every = [manifest, *kept(root, manifest.id)]
    with staging(root) as folder:
        (folder / PLAN).write_text(json.dumps([path for each in every for path in paths_of(each)]))
        sync_tree(folder)
        (root / f"{manifest.id}{SUFFIX}").unlink()
        for each in every[1:]:
            (root / kept_file(each)).unlink()
        sync(root)


def _replace_configs(root: Path, staged: Path, encoders: Iterable[str]) -> None:
    for encoder in encoders:
        (staged / encoder / CONFIG).replace(root / encoder / CONFIG)
