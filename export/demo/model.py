"""The demo model: an OpenCLIP model with a configuration and a checkpoint of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from PIL import Image

HERE = Path(__file__).parent
CONFIG = HERE / "demo.json"
CHECKPOINT = HERE / "checkpoint.safetensors"
PLAIN_TEMPLATES: tuple[str, ...] = ("{}", "a photo of a {}.")


@dataclass(frozen=True, slots=True)
class DemoModel:
    """An OpenCLIP model with its transform and tokenizer."""

    clip: open_clip.CLIP
    transform: Callable[[Image.Image], torch.Tensor]  # RGB -> float32 [3, S, S]
    tokenizer: Callable[[list[str]], torch.Tensor]  # N texts -> int64 [N, context]


def create_demo(checkpoint: Path | None = CHECKPOINT) -> DemoModel:
    """Create the demo model in FP32 on the CPU, ready to evaluate.

    Args:
        checkpoint: Weights to load; None leaves OpenCLIP's random ones.
    """
    open_clip.add_model_config(CONFIG)
    clip, _, transform = open_clip.create_model_and_transforms(
        CONFIG.stem, pretrained=str(checkpoint) if checkpoint else None
    )
    return DemoModel(clip.eval(), transform, open_clip.get_tokenizer(CONFIG.stem))
