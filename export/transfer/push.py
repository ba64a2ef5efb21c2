"""Copies a published model to a place: its files first, the index last."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from export.errors import MissingError, RepositoryError, TransferError
from export.publish.leftovers import CONFIG, encoders_of
from export.publish.repository import published
from export.report.card import HUB_HEADER, card
from export.storage.place import Place, place_at, read
from export.transfer import index
from gateway.models.manifest import file_sha256

CARD = "README.md"  # the page that a hub shows


def push(root: Path, model_id: str, address: str, report: Callable[[str], None]) -> index.Index:
    """Copy the published version of a model to a folder or a URL, which is for this model alone.

    Skips files that are already there; `report` gets a line for each that is copied.

    Raises:
        RepositoryError: No such model is published, or its files are damaged or just replaced.
        TransferError: The place cannot be written, or holds another model.
    """
    manifest = published(root, model_id)
    if manifest is None:
        raise RepositoryError(f"{root}: no model {model_id!r} is published here")
    paths = [*(f"{encoder}/{CONFIG}" for encoder in encoders_of(manifest)), *manifest.files]
    files = {path: _file(root / path) for path in paths}
    for path, sha256 in manifest.files.items():
        if files[path].sha256 != sha256:
            raise RepositoryError(f"{root / path}: differs from its manifest; export it again")
    try:
        made = index.Index(manifest=manifest, files=files)
    except ValidationError as error:
        raise RepositoryError(f"{root}: {model_id}: {index.details(error)}") from error
    place = place_at(address)
    _check_owner(place, model_id)
    for path, file in files.items():
        if place.size(file.name) != file.size:
            report(f"{path}: {file.size:,} bytes")
            place.put(file.name, root / path)
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        if place.size(CARD) is None:
            text = (root / manifest.card).read_text() if manifest.card else card(manifest)
            draft.write_text(HUB_HEADER + text)
            place.put(CARD, draft)
        draft.write_text(made.model_dump_json(indent=1) + "\n")
        place.put(index.NAME, draft)
    return made


def _check_owner(place: Place, model_id: str) -> None:
    try:
        held = index.read_index(read(place, index.NAME, index.MAX_BYTES), str(place)).manifest.id
    except MissingError:
        return
    if held != model_id:
        raise TransferError(f"{place}: holds the model {held!r}; each model needs its own place")


def _file(path: Path) -> index.File:
    try:
        return index.File(size=path.stat().st_size, sha256=file_sha256(path))
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}; export the model again") from error
