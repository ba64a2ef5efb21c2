"""What a published model owns in a repository, and the clearing of what none does."""

import json
import shutil
from pathlib import Path

from pydantic import ValidationError

from export.errors import RepositoryError
from gateway.models.manifest import KEPT_SUFFIX, SUFFIX, Manifest, ManifestError, read_manifest

CONFIG = "config.pbtxt"
STAGING = ".staging-"  # prefix of the folders that models are prepared in
PLAN = "plan.json"  # in such a folder: the paths that publishing brings or makes superfluous


def sweep(root: Path) -> None:
    """Deletes all that plans of staging folders name and no manifest does, and the folders.

    Raises:
        RepositoryError: A manifest cannot be read, so that nothing can be said to be unused.
    """
    leftovers = sorted(root.glob(f"{STAGING}*"))
    if not leftovers:
        return
    manifests = [*(read(path) for path in sorted(root.glob(f"*{SUFFIX}"))), *kept(root)]
    live = {path for manifest in manifests for path in paths_of(manifest)}
    towers = {tower for manifest in manifests for tower in towers_of(manifest)}
    for folder in leftovers:
        for name in _planned(folder):
            if name not in live:
                _delete(root / name)
            tower = root / Path(name).parent
            if tower != root and tower.name not in towers and tower.is_dir():
                _delete_tower(tower)
        shutil.rmtree(folder)


def read(path: Path) -> Manifest:
    """Reads one manifest.

    Raises:
        RepositoryError: It cannot be read.
    """
    try:
        return read_manifest(path)
    except ManifestError as error:
        raise RepositoryError(f"{error}; mend or delete that file first") from error


def kept(root: Path, model_id: str | None = None) -> list[Manifest]:
    """The versions that are kept beside those that are served, of one model or of all.

    Raises:
        RepositoryError: A manifest of theirs cannot be read.
    """
    found = []
    for path in sorted(root.glob(f"*{KEPT_SUFFIX}")):
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise RepositoryError(f"{path}: {error}; mend or delete that file first") from error
        if model_id in (None, manifest.id):
            found.append(manifest)
    return found


def kept_file(manifest: Manifest) -> str:
    """Where the manifest of a kept version lies, relative to the repository."""
    return f"{manifest.id}.{manifest.version}{KEPT_SUFFIX}"


def manifest_text(manifest: Manifest) -> str:
    """What is written of a manifest."""
    return manifest.model_dump_json(indent=1) + "\n"


def _planned(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / PLAN).read_text())]
    except (OSError, ValueError):
        return []  # it died before the plan was complete, so nothing was moved out


def _delete_tower(folder: Path) -> None:
    if all(path.name == CONFIG for path in folder.iterdir()):
        shutil.rmtree(folder)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def towers_of(manifest: Manifest) -> dict[str, int]:
    """Its Triton models and the largest batch of each."""
    image, texts = manifest.triton.image, manifest.triton.text
    return {image.name: image.max_batch} | {text.name: text.max_batch for text in texts}


def paths_of(manifest: Manifest) -> list[str]:
    """What a manifest owns, relative to the repository."""
    version = str(manifest.version)
    return [*(f"{tower}/{version}" for tower in towers_of(manifest)), manifest.tokenizer.file]
