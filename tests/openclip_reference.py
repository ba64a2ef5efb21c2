"""The demo model in OpenCLIP and PyTorch FP32, by OpenCLIP's own code alone: what is right."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

DEMO = Path(__file__).parent.parent / "export" / "demo"

Floats = NDArray[np.float32]


class Reference:
    """One OpenCLIP model with its tokenizer and evaluation transform."""

    def __init__(self, name: str, checkpoint: Path) -> None:
        self.model, _, self.transform = open_clip.create_model_and_transforms(
            name, pretrained=str(checkpoint)
        )
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, float32 [n, D]."""
        features: Any = self.model.encode_text(self.tokenize(list(texts)), normalize=True)
        return np.asarray(features.numpy(), dtype=np.float32)

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> Floats:
        """Unit vectors, float32 [n, D]."""
        pixels = torch.stack([self.transform(image) for image in images])
        features: Any = self.model.encode_image(pixels, normalize=True)
        return np.asarray(features.numpy(), dtype=np.float32)

    @torch.inference_mode()
    def zero_shot(
        self, images: Sequence[Image.Image], labels: Sequence[str], templates: Sequence[str]
    ) -> Floats:
        """Softmax scores, float32 [images, labels], by OpenCLIP's own classifier."""
        classifier = open_clip.build_zero_shot_classifier(
            self.model, self.tokenize, list(labels), list(templates)
        )
        logits = self.model.logit_scale.exp() * torch.from_numpy(self.images(images)) @ classifier
        return np.asarray(logits.softmax(dim=-1).numpy(), dtype=np.float32)


@functools.cache
def demo_reference() -> Reference:
    """The demo model, from the committed configuration and checkpoint."""
    open_clip.add_model_config(DEMO / "demo.json")
    return Reference("demo", DEMO / "checkpoint.safetensors")
