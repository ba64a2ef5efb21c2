"""Measures the written towers against OpenCLIP in PyTorch FP32, and refuses what falls short."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from export.checkpoint import Checkpoint
from export.errors import GateError, brief
from export.samples import GOLDEN_TEXTS, Samples
from gateway.errors import RequestError
from gateway.images import ImageLimits, preprocess
from gateway.manifest import (
    PIXELS,
    TOKEN_IDS,
    Gate,
    Golden,
    Preprocessing,
    Tokenizer,
    golden_pixels,
)
from gateway.text import TextTokenizer, padded

MIN_COSINE = 0.9999
_NORM_TOLERANCE = 1e-3
_CHUNK = 8  # items that PyTorch encodes at a time

Vectors = NDArray[np.float32]  # [n, D]
RunTower = Callable[[NDArray[Any]], Vectors]


@dataclass(frozen=True, slots=True)
class Staged:
    """Files to measure: one image tower, and one text tower for each length."""

    image: Path
    text: dict[int, Path]


@dataclass(frozen=True, slots=True)
class References:
    """What OpenCLIP says of the samples, from its own transform and its own tokenizer."""

    image: Vectors
    text: Vectors


def reference(checkpoint: Checkpoint, samples: Samples) -> References:
    """Encodes the samples with OpenCLIP in PyTorch FP32, text at its full padded length."""
    pictures = [checkpoint.transform(_picture(data)) for data in samples.pictures]
    model = checkpoint.model
    return References(
        _encode(model.encode_image, torch.stack(pictures)),
        _encode(model.encode_text, checkpoint.tokenizer(list(samples.texts))),
    )


def golden(
    checkpoint: Checkpoint, spec: Tokenizer, folder: Path, length: int, min_cosine: float
) -> Golden:
    """Known answers from PyTorch FP32 for the golden picture and a short text.

    The text is the first golden one that `length`, the shortest text tower's, can hold.
    """
    tokenizer, model = TextTokenizer(spec, folder), checkpoint.model
    encoded = [tokenizer.encode(text).ids for text in GOLDEN_TEXTS]
    ids = next((ids for ids in encoded if len(ids) <= length), encoded[-1][:length])
    full = torch.from_numpy(padded(ids, spec.context_length, spec.pad_id)[None]).long()
    picture = _golden_picture(checkpoint)
    return Golden(
        token_ids=tuple(ids.tolist()),
        text_features=tuple(_encode(model.encode_text, full)[0].tolist()),
        image_features=tuple(_encode(model.encode_image, picture)[0].tolist()),
        min_cosine=min_cosine,
    )


def measure(
    staged: Staged,
    truth: References,
    samples: Samples,
    checkpoint: Checkpoint,
    spec: Tokenizer,
    max_batch: int,
    min_cosine: float = MIN_COSINE,
) -> Gate:
    """Runs the written files in ONNX Runtime, on inputs that the gateway's own code prepares.

    Every tower runs at batch 1, 2 and `max_batch`; texts that a length cannot hold are left to
    the longer ones. The tokenizer's file lies two folders above each tower's.

    Raises:
        GateError: The lowest cosine is under `min_cosine`, or a tower does not run.
    """
    pixels = _pixels(samples, checkpoint.preprocessing)
    image = _lowest(_session(staged.image, PIXELS), pixels, truth.image, max_batch)
    tokenizer = TextTokenizer(spec, staged.image.parents[2])
    encoded = [tokenizer.encode(text).ids for text in samples.texts]
    lowest = []
    for length, path in staged.text.items():
        fits = [row for row, ids in enumerate(encoded) if len(ids) <= length]
        ids = np.stack([padded(encoded[row], length, spec.pad_id) for row in fits])
        lowest.append(_lowest(_session(path, TOKEN_IDS), ids, truth.text[fits], max_batch))
    text = float(np.min(lowest))
    _refuse_below(min_cosine, "image", image)
    _refuse_below(min_cosine, "text", text)
    return Gate(
        image_min_cosine=image,
        text_min_cosine=text,
        threshold=min_cosine,
        samples=len(samples.pictures) + len(samples.texts),
    )


def _refuse_below(min_cosine: float, tower: str, found: float) -> None:
    if np.isnan(found):
        raise GateError(f"refused: the {tower} tower's vectors are not of length 1; not published")
    if found < min_cosine:
        raise GateError(
            f"refused: the {tower} tower's lowest cosine to OpenCLIP in PyTorch FP32 is "
            f"{found:.6f}, {min_cosine - found:.6f} short of {min_cosine}; nothing published"
        )


def _pixels(samples: Samples, rules: Preprocessing) -> NDArray[np.uint8]:
    try:
        return np.stack([preprocess(data, rules, ImageLimits()) for data in samples.pictures])
    except RequestError as error:
        raise GateError(f"a sample picture is not one that the gateway takes: {error}") from error


def _picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _golden_picture(checkpoint: Checkpoint) -> torch.Tensor:
    pixels = golden_pixels(checkpoint.preprocessing.image_size)
    return checkpoint.transform(Image.fromarray(pixels))[None]


def _encode(encode: Callable[..., torch.Tensor], items: torch.Tensor) -> Vectors:
    with torch.inference_mode():
        features = torch.cat(
            [encode(chunk, normalize=False) for chunk in torch.split(items, _CHUNK)]
        )
        return functional.normalize(features.float(), dim=-1).numpy()


def _session(path: Path, name: str) -> RunTower:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise GateError(f"{path.name}: ONNX Runtime cannot load it: {brief(error)}") from error

    def run(batch: NDArray[Any]) -> Vectors:
        try:
            return np.asarray(session.run(None, {name: batch})[0])
        except Exception as error:  # as above
            raise GateError(
                f"refused: {path.name} does not run at shape {batch.shape}: {brief(error)}"
            ) from error

    return run


def _lowest(run: RunTower, items: NDArray[Any], truth: Vectors, max_batch: int) -> float:
    """The lowest cosine over all items and batch sizes; NaN when a vector is not of length 1."""
    lowest = []
    for size in sorted({1, min(2, max_batch), max_batch}):
        rows = np.resize(np.arange(len(items)), max(size, len(items)))
        rows = rows[: len(rows) // size * size]
        found = np.concatenate([run(items[part]) for part in rows.reshape(-1, size)])
        norms = np.linalg.norm(found.astype(np.float64), axis=-1)
        cosines = (found.astype(np.float64) * truth[rows]).sum(-1) / norms
        lowest.append(np.where(np.abs(norms - 1) < _NORM_TOLERANCE, cosines, np.nan).min())
    return float(np.min(lowest))
