"""Finds the origin and the licence of weights in their model card, on the hub or on disk."""

import warnings
from dataclasses import dataclass
from typing import Any

import open_clip
from huggingface_hub import ModelCard

from export.source.spec import Source

CARD = "README.md"
MAX_CARD_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Origin:
    """The hub repository of some weights, and their licence; None if unknown."""

    repository: str | None = None
    licence: str | None = None


def find_origin(source: Source) -> Origin:
    """Find the origin of weights; contacts the hub only if they are from there."""
    if source.folder is not None:
        return Origin(licence=_licence(source.folder / CARD))
    if not source.downloads:
        return Origin()
    found = open_clip.get_pretrained_cfg(source.open_clip_name, source.pretrained or "")
    repository = (found.get("hf_hub") or "").strip("/") if source.pretrained else source.label
    return Origin(repository or None, _licence(repository) if repository else None)


def _licence(card: Any) -> str | None:  # noqa: ANN401 - a path, or the name of a repository
    """The licence that a card's header names."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not isinstance(card, str) and card.stat().st_size > MAX_CARD_BYTES:
                return None
            data = ModelCard.load(card, ignore_metadata_errors=True).data
    except Exception:  # no card, no network, or no YAML: the licence is then not known
        return None
    named = getattr(data, "license_name", None) if data.license == "other" else data.license
    return named if isinstance(named, str) else None
