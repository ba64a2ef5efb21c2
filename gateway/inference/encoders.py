"""A manifest -> the encoders that Triton serves for it, and each text -> its encoder."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from gateway.inference.client import Encoder, Golden
from gateway.models.manifest import (
    IMAGE_FEATURES,
    PIXELS,
    TEXT_FEATURES,
    TOKEN_IDS,
    Manifest,
    TextEncoder,
    golden_pixels,
)
from gateway.models.tokenizer import padded
from gateway.models.values import TokenIds


def image_encoder(manifest: Manifest) -> Encoder:
    """The image encoder: uint8 [n, S, S, 3] -> vectors."""
    served = manifest.triton.image
    return Encoder(
        served.name,
        manifest.version,
        PIXELS,
        IMAGE_FEATURES,
        manifest.embedding_size,
        served.max_batch,
        f"{manifest.id}: image",
        partial(_golden_image, manifest),
    )


def text_encoder(manifest: Manifest, served: TextEncoder) -> Encoder:
    """A text encoder: int32 [n, length] -> vectors; a packed one takes any length."""
    return Encoder(
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


def encoders_of(manifest: Manifest) -> Iterator[Encoder]:
    """Every encoder of a model."""
    yield image_encoder(manifest)
    for served in manifest.triton.text:
        yield text_encoder(manifest, served)


class ModelEncoders:
    """The encoders of one model, built once for all its requests."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.image, *self._texts = encoders_of(manifest)
        self._lengths = manifest.token_lengths
        self._pad_id = manifest.tokenizer.pad_id

    def by_text_encoder(
        self, texts: Mapping[int, TokenIds]
    ) -> Mapping[Encoder, Mapping[int, TokenIds]]:
        """Group texts by the shortest encoder that takes them, each padded to its length.

        Rows of one shape can share a call, and the shortest encoder spends the least on padding.
        The texts of a packed encoder stay as they are.
        """
        if not self._lengths:
            return {self._texts[0]: texts}
        grouped: dict[Encoder, dict[int, TokenIds]] = defaultdict(dict)
        for index, ids in texts.items():
            position = bisect_left(self._lengths, len(ids))
            row = padded(ids, self._lengths[position], self._pad_id)
            grouped[self._texts[position]][index] = row
        return grouped


def _golden_image(manifest: Manifest) -> Golden:
    golden = manifest.golden
    pixels = golden_pixels(manifest.preprocessing.image_size)
    return Golden(pixels[None], np.array(golden.image_features), golden.min_cosine)


def _golden_text(manifest: Manifest, served: TextEncoder) -> Golden:
    golden = manifest.golden
    ids = np.array(golden.token_ids, dtype=np.int32)
    length = len(ids) if served.packed else served.length
    batch = padded(ids, length, manifest.tokenizer.pad_id)[None]
    return Golden(batch, np.array(golden.text_features), golden.min_cosine)
