"""The encoders of a model as Triton knows them, and which of them a text goes to."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping

from gateway.manifest import (
    IMAGE_FEATURES,
    PIXELS,
    TEXT_FEATURES,
    TOKEN_IDS,
    Manifest,
    TextTower,
)
from gateway.text import padded
from gateway.triton import Tower
from gateway.values import TokenIds


def image_tower(manifest: Manifest) -> Tower:
    """Takes uint8 [n, S, S, 3]."""
    served = manifest.triton.image
    return Tower(
        served.name,
        manifest.version,
        PIXELS,
        IMAGE_FEATURES,
        manifest.embedding_size,
        served.max_batch,
    )


def text_tower(manifest: Manifest, served: TextTower) -> Tower:
    """Takes int32 [n, length]."""
    return Tower(
        served.name,
        manifest.version,
        TOKEN_IDS,
        TEXT_FEATURES,
        manifest.embedding_size,
        served.max_batch,
    )


def by_text_tower(
    manifest: Manifest, texts: Mapping[int, TokenIds]
) -> dict[Tower, dict[int, TokenIds]]:
    """Texts by the shortest tower that takes them, each padded to its length.

    Equal shapes can share a call; the rest of a longer tower would be spent on padding.
    """
    grouped: dict[int, dict[int, TokenIds]] = defaultdict(dict)
    for index, ids in texts.items():
        tower = bisect_left(manifest.token_lengths, len(ids))
        length = manifest.token_lengths[tower]
        grouped[tower][index] = padded(ids, length, manifest.tokenizer.pad_id)
    served = manifest.triton.text
    return {text_tower(manifest, served[tower]): rows for tower, rows in grouped.items()}
