"""Training batches: one scene of every pair, preprocessed and tokenized as in serving."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from export.demo.captions import write_caption
from export.demo.model import DemoModel
from export.demo.scenes import PAIRS, draw_scene

LARGE_SIZES = (80, 96, 128, 192, 256)  # pixels; resized like a user's picture
LARGE_RATE = 0.2
JPEG_RATE = 0.2


@dataclass(frozen=True, slots=True)
class Batch:
    """Images and their captions; no caption fits another image of its batch."""

    pixels: torch.Tensor  # float32 [48, 3, S, S], normalised
    tokens: torch.Tensor  # int64 [48, context]


def _as_jpeg(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
    return Image.open(buffer).convert("RGB")


def make_batch(rng: np.random.Generator, model: DemoModel) -> Batch:
    """Draw and describe one scene of every colour-shape pair, for the model's encoders."""
    images, captions = [], []
    for colour, shape in PAIRS:
        size = int(rng.choice(LARGE_SIZES)) if rng.uniform() < LARGE_RATE else 64
        scene = draw_scene(rng, colour, shape, size=size)
        image = _as_jpeg(rng, scene.image) if rng.uniform() < JPEG_RATE else scene.image
        images.append(model.transform(image))
        captions.append(write_caption(rng, scene))
    return Batch(torch.stack(images), model.tokenizer(captions))
