"""Prepares an evaluation set for the variants, and encodes it with OpenCLIP in PyTorch FP32."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from export.errors import GateError
from export.gate.evaluation import EvaluationSet
from export.gate.metrics import Vectors
from export.gate.samples import GOLDEN_TEXTS
from export.source.checkpoint import Checkpoint
from gateway.errors import RequestError
from gateway.images.preprocess import ImageLimits, preprocess
from gateway.models.manifest import Golden, Preprocessing, Tokenizer, golden_pixels
from gateway.models.tokenizer import TextTokenizer, padded
from gateway.models.values import TokenIds

_CHUNK = 16  # batch size in PyTorch


@dataclass(frozen=True, slots=True)
class References:
    """OpenCLIP's vectors of all pictures and texts of a set, by its own transform and tokenizer.

    Texts run at full length.
    """

    image: Vectors  # [pictures, D]
    text: Vectors  # [texts, D]


@dataclass(frozen=True, slots=True)
class Inputs:
    """A set as the gateway's code prepares it."""

    pixels: NDArray[np.uint8]  # [pictures, S, S, 3]
    token_ids: tuple[TokenIds, ...]  # int32 [tokens] each, not padded
    pad_id: int


def references(checkpoint: Checkpoint, dataset: EvaluationSet) -> References:
    """Encode a set with OpenCLIP in PyTorch FP32, text at its full padded length."""
    model = checkpoint.model
    images = (
        torch.stack([checkpoint.transform(Image.open(io.BytesIO(data))) for data in part])
        for part in _chunks(dataset.all_pictures)
    )
    ids = (checkpoint.tokenizer(list(part)) for part in _chunks(dataset.all_texts))
    return References(_encode(model.encode_image, images), _encode(model.encode_text, ids))


def prepare(dataset: EvaluationSet, rules: Preprocessing, spec: Tokenizer, folder: Path) -> Inputs:
    """Prepare a set as the gateway does, with the tokenizer's file in `folder`.

    Raises:
        GateError: The gateway refuses a picture or a text.
    """
    tokenizer = TextTokenizer(spec, folder)
    try:
        ids = tuple(tokenizer.encode(text).ids for text in dataset.all_texts)
    except RequestError as error:
        raise GateError(f"the gateway refuses a text: {error}") from error
    return Inputs(_pixels(dataset.all_pictures, rules), ids, spec.pad_id)


def golden(
    checkpoint: Checkpoint, spec: Tokenizer, folder: Path, length: int, min_cosine: float
) -> Golden:
    """Compute golden vectors in PyTorch FP32, for the golden picture and a short text.

    The text is the first golden one that fits `length`, that of the shortest text encoder.
    """
    tokenizer, model = TextTokenizer(spec, folder), checkpoint.model
    encoded = [tokenizer.encode(text).ids for text in GOLDEN_TEXTS]
    ids = next((ids for ids in encoded if len(ids) <= length), encoded[-1][:length])
    full = torch.from_numpy(padded(ids, spec.context_length, spec.pad_id)[None]).long()
    pixels = golden_pixels(checkpoint.preprocessing.image_size)
    picture = checkpoint.transform(Image.fromarray(pixels))[None]
    return Golden(
        token_ids=tuple(ids.tolist()),
        text_features=tuple(_encode(model.encode_text, [full])[0].tolist()),
        image_features=tuple(_encode(model.encode_image, [picture])[0].tolist()),
        min_cosine=min_cosine,
    )


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _encode(encode: Callable[..., torch.Tensor], chunks: Iterable[torch.Tensor]) -> Vectors:
    with torch.inference_mode():
        features = torch.cat([encode(chunk, normalize=False) for chunk in chunks])
        return functional.normalize(features.float(), dim=-1).numpy()


def _pixels(pictures: Sequence[bytes], rules: Preprocessing) -> NDArray[np.uint8]:
    try:
        return np.stack([preprocess(data, rules, ImageLimits()) for data in pictures])
    except RequestError as error:
        raise GateError(f"the gateway refuses a picture: {error}") from error
