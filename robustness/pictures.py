"""The measured pictures, from a folder or drawn, with their classes and captions."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.traffic.captions import Captions
from benchmarks.traffic.errors import BenchmarkError
from export.demo.captions import BACKGROUND_TEMPLATES
from export.demo.scenes import LABELS, PAIRS, draw_scene

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"))
ORDER = 7  # scenes use every seventh pair of colour and shape, so that a few show many
LARGER = 4  # height of a scene, as a multiple of the model's image size
QUALITY = 95


@dataclass(frozen=True, slots=True)
class Pictures:
    """Encoded pictures, in order.

    Attributes:
        names: Unique name of each picture.
        files: Their bytes.
        classes: Names of the classes; empty if unknown.
        labels: int [n], index of each picture's class; None if unknown.
        captions: Distinct short texts; they describe the pictures only if these are drawn.
    """

    names: tuple[str, ...]
    files: tuple[bytes, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.intp] | None
    captions: tuple[str, ...]

    def __str__(self) -> str:
        """Describe the pictures."""
        classes = f"{len(self.classes)} classes" if self.classes else "without classes"
        return f"{len(self.files)} pictures, {classes}: {self.names[0]} and others"


def drawn(count: int, seed: int, image_size: int) -> Pictures:
    """Draw labelled scenes for a model's image size, as JPEG files with aspect ratio 4:3."""
    scenes = [
        draw_scene(
            np.random.default_rng([seed, i]), *PAIRS[i * ORDER % len(PAIRS)],
            size=LARGER * image_size,
        )
        for i in range(count)
    ]  # fmt: skip
    template = BACKGROUND_TEMPLATES[0]
    captions = (template.format(each.label, background=each.background) for each in scenes)
    return Pictures(
        names=tuple(f"scene {i}" for i in range(count)),
        files=tuple(_wide_jpeg(scene.image) for scene in scenes),
        classes=LABELS,
        labels=np.array([LABELS.index(scene.label) for scene in scenes]),
        captions=tuple(dict.fromkeys(captions)),
    )


def read(folder: Path, count: int, seed: int) -> Pictures:
    """Read at most `count` pictures of a folder, evenly spaced in the order of their paths.

    Either all lie in folders named for their classes, or none does. `seed` chooses the captions.

    Raises:
        BenchmarkError: There are too few pictures or classes, or a file cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise BenchmarkError(f"{folder}: give a folder with two pictures or more")
    folders = [path.parent.name for path in files if path.parent != folder]
    classes = sorted(set(folders))
    if folders and (len(folders) < len(files) or len(classes) < 2):
        raise BenchmarkError(
            f"{folder}: put all pictures into two or more folders named for their classes, or none"
        )
    count = min(count, len(files))
    chosen = [i * len(files) // count for i in range(count)]
    try:
        content = tuple(files[i].read_bytes() for i in chosen)
    except OSError as error:
        raise BenchmarkError(f"cannot be read: {error}") from error
    return Pictures(
        names=tuple(files[i].relative_to(folder).as_posix() for i in chosen),
        files=content,
        classes=tuple(name.replace("_", " ") for name in classes),
        labels=np.array([classes.index(folders[i]) for i in chosen]) if folders else None,
        captions=tuple(Captions(seed).take(count)),
    )


def png(pixels: NDArray[np.uint8], exif: Image.Exif | None = None) -> bytes:
    """Encode pixels, uint8 [H, W, 3], without loss."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1, exif=exif or b"")
    return stream.getvalue()


def _wide_jpeg(image: Image.Image) -> bytes:
    """Add a sixth on either side, so that squashing differs from cropping."""
    side = image.width // 6
    pixels = np.pad(np.asarray(image), ((0, 0), (side, side), (0, 0)), mode="reflect")
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
