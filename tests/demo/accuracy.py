"""Zero-shot accuracy of an OpenCLIP model on freshly drawn scenes."""

from collections.abc import Sequence

import torch
from PIL import Image

from export.demo.model import PLAIN_TEMPLATES, DemoModel
from export.demo.scenes import LABELS, draw_scenes

# In the manner of the ImageNet templates that OpenAI published with CLIP.
HELD_OUT_TEMPLATES: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "there is a {} in the scene.",
    "art of the {}.",
    "a rendition of a {}.",
    "a pixelated image of some {}",
    "a cropped snapshot: {}",
    "the toy {}.",
    "a sketch of my favourite {}, seen from above.",
)


@torch.no_grad()
def encode_images(model: DemoModel, images: Sequence[Image.Image]) -> torch.Tensor:
    """Return the unit vectors of RGB images, float32 ``[N, D]``."""
    chunks = [images[i : i + 96] for i in range(0, len(images), 96)]
    pixels = (torch.stack([model.transform(image) for image in chunk]) for chunk in chunks)
    return torch.cat([model.clip.encode_image(chunk, normalize=True) for chunk in pixels])


@torch.no_grad()
def encode_labels(model: DemoModel, template: str) -> torch.Tensor:
    """Return the unit vectors of ``LABELS`` put into a template, float32 ``[48, D]``."""
    tokens = model.tokenizer([template.format(label) for label in LABELS])
    vectors: torch.Tensor = model.clip.encode_text(tokens, normalize=True)
    return vectors


def classify(model: DemoModel, images: Sequence[Image.Image], template: str) -> list[str]:
    """Return the label of ``LABELS`` nearest to each image."""
    cosines = encode_images(model, images) @ encode_labels(model, template).T  # [N, 48]
    return [LABELS[i] for i in cosines.argmax(dim=1).tolist()]


def accuracy(
    model: DemoModel,
    seed: int,
    count: int = 192,
    templates: Sequence[str] = PLAIN_TEMPLATES,
    size: int = 64,
) -> dict[str, float]:
    """Measure top-1 zero-shot accuracy over all colour-shape pairs.

    Args:
        model: The model to measure.
        seed: Seed of the scenes.
        count: Number of scenes, cycled evenly over the pairs.
        templates: Prompt templates with one ``{}``, each measured by itself.
        size: Side of the drawn pictures in pixels.

    Returns:
        The share of scenes classified rightly, 0 to 1, by template.
    """
    scenes = draw_scenes(count, seed, size)
    truth = torch.tensor([LABELS.index(scene.label) for scene in scenes])  # [N]
    images = encode_images(model, [scene.image for scene in scenes])  # [N, D]
    rates = {}
    for template in templates:
        guess = (images @ encode_labels(model, template).T).argmax(dim=1)  # [N]
        rates[template] = (guess == truth).double().mean().item()
    return rates
