"""Finds what is published of a model, without PyTorch."""

from collections.abc import Sequence
from pathlib import Path

from export.publish.leftovers import read
from gateway.models.manifest import SUFFIX, Manifest

HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"  # of OpenCLIP's names
CONFIG_NAME = "open_clip_config.json"  # of OpenCLIP's own folder and hub layout


def find_published(
    root: Path, model: str, pretrained: str | None, precisions: Sequence[str]
) -> list[str | None]:
    """The id under which a model is published in each precision, or None; the newest of several.

    A model is recognised by the names of its architecture and weights, so a checkpoint file that
    was written anew is not.

    Args:
        root: The model repository.
        model: `MODEL` of `python -m export`.
        pretrained: Its `--pretrained`.
        precisions: Its `--precision`.

    Raises:
        RepositoryError: A manifest cannot be read.
    """
    name, own_weights = _name(model)
    weights = Path(pretrained).name if pretrained and Path(pretrained).is_file() else pretrained

    def is_it(each: Manifest) -> bool:
        return each.open_clip_name == name and (own_weights or each.pretrained == weights)

    found = [each for each in map(read, root.glob(f"*{SUFFIX}")) if is_it(each)]
    found.sort(key=lambda each: each.created)
    ids = {str(each.precision): each.id for each in found}
    return [ids.get(precision) for precision in precisions]


def _name(model: str) -> tuple[str, bool]:
    """The name that a manifest has for a model, and whether the model brings its own weights."""
    path = Path(model)
    if model.startswith(HUB_PREFIX):
        return model.removeprefix(HUB_PREFIX), True
    if model.startswith(FOLDER_PREFIX) or path.is_dir() or path.name == CONFIG_NAME:
        folder = Path(model.removeprefix(FOLDER_PREFIX))
        return (folder.parent if folder.name == CONFIG_NAME else folder).resolve().name, True
    return (path.stem if path.suffix == ".json" else model.replace("/", "-")), False
