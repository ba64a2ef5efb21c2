"""Finds the published variants of a model, without PyTorch."""

from collections.abc import Sequence
from pathlib import Path

from export.publish.leftovers import read
from gateway.models.manifest import SUFFIX
from gateway.models.variants import find_variants


def find_published(
    root: Path, model: str, pretrained: str | None, precisions: Sequence[str]
) -> list[str | None]:
    """The id under which a model is published in each precision, or None; see `find_variants`.

    Raises:
        RepositoryError: A manifest cannot be read.
    """
    found = find_variants(map(read, root.glob(f"*{SUFFIX}")), model, pretrained, precisions)
    return [None if each is None else each.id for each in found]
