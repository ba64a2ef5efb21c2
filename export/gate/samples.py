"""Built-in pictures and texts to measure an exported model on."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.errors import ExportError, brief
from gateway.models.manifest import golden_pixels

GOLDEN_TEXTS = ("a photo of a cat", "a cat", "cat", "")  # the first that fits

_SIZES = ((64, 64), (640, 480), (333, 500), (47, 31), (97, 300), (300, 97))  # width, height
_WORD_COUNTS = (1, 3, 6, 10, 13, 14, 18, 22, 28, 30, 31, 45, 70, 80, 200)
_WORDS = "a photo of two small red cars beside an old stone bridge in the evening"
_ODD_TEXTS = (
    "",
    "cat",
    "A Photo of a CAT, isn't it?",
    "  spaces\tand\nlines ",
    "naïve café — Zürich 東京 Москва",
    "100% &amp; 3.14 <b>bold</b> 🚀👩‍🚀",
    "<start_of_text> inside <end_of_text> text",
    "مرحبا بالعالم",
)


TEXTS = (*_ODD_TEXTS, *(" ".join((_WORDS.split() * 17)[:count]) for count in _WORD_COUNTS))


def make_pictures(image_size: int) -> list[bytes]:
    """Draw pictures of several sizes; the first is the golden picture, which needs no resize."""
    rng = np.random.default_rng(7)
    arrays = [golden_pixels(image_size), *(_scene(rng, *size) for size in _SIZES)]
    return [png(Image.fromarray(pixels)) for pixels in arrays]


def _scene(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Draw gradients, boxes and noise, uint8 [height, width, 3]."""
    rows, columns = np.mgrid[:height, :width]
    slopes = rng.uniform(-1, 1, (2, 3))
    scene = 128 + 127 * (
        rows[..., None] / height * slopes[0] + columns[..., None] / width * slopes[1]
    )
    for _ in range(6):
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = top + rng.integers(1, height), left + rng.integers(1, width)
        scene[top:bottom, left:right] = rng.uniform(0, 255, 3)
    noisy = np.clip(scene + rng.normal(0, 12, scene.shape), 0, 255)
    return np.asarray(noisy, dtype=np.uint8)


def png(image: Image.Image) -> bytes:
    """Encode a picture without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def read_picture(path: Path) -> bytes:
    """Read an image file, and check that it decodes.

    Raises:
        ExportError: It cannot be read, or is not a picture.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # a bad file makes Pillow raise nearly anything
        raise ExportError(f"{path}: not a picture: {brief(error)}") from error
    return data
