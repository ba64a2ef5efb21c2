"""The encoders of a model as Triton knows them, and which of them a text goes to."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from gateway.inference.client import Golden, Tower
from gateway.models.manifest import (
    IMAGE_FEATURES,
    PIXELS,
    TEXT_FEATURES,
    TOKEN_IDS,
    Manifest,
    TextTower,
    golden_pixels,
)
from gateway.models.tokenizer import padded
from gateway.models.values import TokenIds


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
        f"{manifest.id}: image",
        partial(_golden_image, manifest),
    )


def text_tower(manifest: Manifest, served: TextTower) -> Tower:
    """Takes int32 [n, length], or any length where it is packed."""
    return Tower(
        served.name,
        manifest.version,
        TOKEN_IDS,
        TEXT_FEATURES,
        manifest.embedding_size,
        served.max_batch,
        f"{manifest.id}: text",
        partial(_golden_text, manifest, served),
        manifest.tokenizer.pad_id if served.packed else None,
    )


def towers(manifest: Manifest) -> Iterator[Tower]:
    """Every encoder of a model."""
    yield image_tower(manifest)
    for served in manifest.triton.text:
        yield text_tower(manifest, served)


def by_text_tower(
    manifest: Manifest, texts: Mapping[int, TokenIds]
) -> dict[Tower, dict[int, TokenIds]]:
    """Texts by the shortest tower that takes them, each padded to its length.

    Equal shapes can share a call; the rest of a longer tower would be spent on padding. A packed
    tower spends nothing on it, so its texts stay as they are.
    """
    served = manifest.triton.text
    if not manifest.token_lengths:
        return {text_tower(manifest, served[0]): dict(texts)} if texts else {}
    grouped: dict[int, dict[int, TokenIds]] = defaultdict(dict)
    for index, ids in texts.items():
        tower = bisect_left(manifest.token_lengths, len(ids))
        length = manifest.token_lengths[tower]
        grouped[tower][index] = padded(ids, length, manifest.tokenizer.pad_id)
    return {text_tower(manifest, served[tower]): rows for tower, rows in grouped.items()}


def _golden_image(manifest: Manifest) -> Golden:
    golden = manifest.golden
    pixels = golden_pixels(manifest.preprocessing.image_size)
    return Golden(pixels[None], np.array(golden.image_features), golden.min_cosine)


def _golden_text(manifest: Manifest, served: TextTower) -> Golden:
    golden = manifest.golden
    ids = np.array(golden.token_ids, dtype=np.int32)
    length = len(ids) if served.packed else served.length
    batch = padded(ids, length, manifest.tokenizer.pad_id)[None]
    return Golden(batch, np.array(golden.text_features), golden.min_cosine)
