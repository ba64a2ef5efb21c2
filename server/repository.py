"""Lists the Triton models that a model repository publishes.

The repository's root has one ``<id>.manifest.json`` per model, which the exporter writes last: a
Triton model that no manifest names is incomplete or a leftover, and is not served.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from server.errors import RepositoryError

SUFFIX = ".manifest.json"
MANIFEST_VERSION = 1
HOW_TO_EXPORT = "export one with: python -m export MODEL --repository DIR"


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model id and the Triton models (folders of the repository) that serve it."""

    id: str
    triton_models: tuple[str, ...]


def published_models(repository: Path) -> tuple[PublishedModel, ...]:
    """Read every manifest of ``repository``, in the order of the model ids.

    Raises:
        RepositoryError: no such folder, no manifest, a broken one, or a Triton model that is
            missing or claimed by two models.
    """
    if not repository.is_dir():
        raise RepositoryError(f"model repository {repository}: no such folder")
    manifests = sorted(repository.glob(f"*{SUFFIX}"))
    if not manifests:
        raise RepositoryError(
            f"model repository {repository} contains no model (no *{SUFFIX}); {HOW_TO_EXPORT}"
        )
    models = tuple(_published(path) for path in manifests)
    owners: dict[str, str] = {}
    for model in models:
        for name in model.triton_models:
            if name in owners:
                raise RepositoryError(
                    f"model repository {repository}: {model.id}{SUFFIX} and "
                    f"{owners[name]}{SUFFIX} both name the Triton model '{name}'"
                )
            owners[name] = model.id
    return models


def select_models(repository: Path, ids: Iterable[str]) -> tuple[PublishedModel, ...]:
    """Select the published models with these ids, or all if ``ids`` is empty.

    Raises:
        RepositoryError: As ``published_models``, or no manifest has an id.
    """
    models = published_models(repository)
    wanted = tuple(dict.fromkeys(ids))
    known = {model.id: model for model in models}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise RepositoryError(
            f"model repository {repository} has no model {', '.join(map(repr, unknown))}; "
            f"it has: {', '.join(known)}"
        )
    return tuple(known[name] for name in wanted) if wanted else models


def _published(path: Path) -> PublishedModel:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RepositoryError(f"manifest {path} cannot be read as JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise RepositoryError(f"manifest {path}: expected a JSON object")
    found = manifest.get("schema_version")
    if found != MANIFEST_VERSION:
        raise RepositoryError(
            f"manifest {path}: key 'schema_version' is {found!r}, but this server "
            f"reads {MANIFEST_VERSION}; export the model again"
        )
    try:
        image, texts = manifest["triton"]["image"], manifest["triton"]["text"]
        names = tuple(entry["name"] for entry in (image, *texts))
        if not texts or any(Path(name).name != name for name in names):
            raise ValueError(names)
    except (KeyError, TypeError, ValueError) as error:
        raise RepositoryError(
            f"manifest {path}: keys 'triton.image' and 'triton.text' must name folders next to it"
        ) from error
    for name in names:
        config = path.parent / name / "config.pbtxt"
        if not config.is_file():
            raise RepositoryError(
                f"manifest {path} names the Triton model '{name}', but {config} does not exist; "
                "export the model again"
            )
    return PublishedModel(path.name.removesuffix(SUFFIX), names)
