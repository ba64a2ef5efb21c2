"""Finds the files of published models in a repository, and deletes leftovers."""

import json
import shutil
from pathlib import Path

from pydantic import ValidationError

from export.errors import RepositoryError
from gateway.models.manifest import KEPT_SUFFIX, SUFFIX, Manifest, ManifestError, read_manifest

CONFIG = "config.pbtxt"
STAGING = ".staging-"  # prefix of staging folders
PLAN = "plan.json"  # in a staging folder: the paths that publishing adds or removes


def sweep(root: Path) -> None:
    """Delete staging folders, and the paths in their plans that no manifest names.

    Raises:
        RepositoryError: A manifest cannot be read, so it is unknown which paths are unused.
    """
    leftovers = sorted(root.glob(f"{STAGING}*"))
    if not leftovers:
        return
    manifests = [*(read(path) for path in sorted(root.glob(f"*{SUFFIX}"))), *kept(root)]
    live = {path for manifest in manifests for path in paths_of(manifest)}
    encoders = {encoder for manifest in manifests for encoder in encoders_of(manifest)}
    for folder in leftovers:
        for name in _planned(folder):
            if name not in live:
                _delete(root / name)
            encoder = root / Path(name).parent
            if encoder != root and encoder.name not in encoders and encoder.is_dir():
                _delete_encoder(encoder)
        shutil.rmtree(folder)


def read(path: Path) -> Manifest:
    """Read one manifest.

    Raises:
        RepositoryError: It cannot be read.
    """
    try:
        return read_manifest(path)
    except ManifestError as error:
        raise RepositoryError(f"{error}; repair or delete that file first") from error


def kept(root: Path, model_id: str | None = None) -> list[Manifest]:
    """List the kept versions of one model or of all.

    Raises:
        RepositoryError: A manifest cannot be read.
    """
    found = []
    for path in sorted(root.glob(f"*{KEPT_SUFFIX}")):
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise RepositoryError(f"{path}: {error}; repair or delete that file first") from error
        if model_id in (None, manifest.id):
            found.append(manifest)
    return found


def kept_file(manifest: Manifest) -> str:
    """File name of the manifest of a kept version."""
    return f"{manifest.id}.{manifest.version}{KEPT_SUFFIX}"


def manifest_text(manifest: Manifest) -> str:
    """Serialize a manifest."""
    return manifest.model_dump_json(indent=1) + "\n"


def _planned(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / PLAN).read_text())]
    except (OSError, ValueError):
        return []  # the export died before the plan was complete, so it moved nothing


def _delete_encoder(folder: Path) -> None:
    if all(path.name == CONFIG for path in folder.iterdir()):
        shutil.rmtree(folder)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def encoders_of(manifest: Manifest) -> dict[str, int]:
    """Triton models of a manifest, with the largest batch of each."""
    image, texts = manifest.triton.image, manifest.triton.text
    return {image.name: image.max_batch} | {text.name: text.max_batch for text in texts}


def tokenizer_file(model_id: str, version: int) -> str:
    """Name of a tokenizer's file in a repository."""
    return f"{model_id}.{version}.tokenizer.json"


def card_file(model_id: str, version: int) -> str:
    """Name of a model card in a repository."""
    return f"{model_id}.{version}.card.md"


def paths_of(manifest: Manifest) -> list[str]:
    """Paths that a manifest owns, relative to the repository."""
    version = str(manifest.version)
    folders = (f"{encoder}/{version}" for encoder in encoders_of(manifest))
    return [*folders, manifest.tokenizer.file, *filter(None, [manifest.card])]
