"""Real photos as JPEG files of about 0.3 megapixels, equal on every machine and in every run.

They are cut from the photos in the scikit-image package, so nothing is fetched.
"""

import functools
import importlib.util
import random
from io import BytesIO
from pathlib import Path

from PIL import Image

from benchmarks.traffic.errors import BenchmarkError

SOURCES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
SIZE = (640, 480)  # 0.31 megapixels
QUALITY = 85
COUNT = 28


class PhotoError(BenchmarkError):
    """The photos cannot be made; the message says what is missing."""


@functools.cache  # they take a second to make
def photos(count: int = COUNT) -> tuple[bytes, ...]:
    """`count` JPEG files, 640 x 480, each a different cut of one of the photos.

    Raises:
        PhotoError: scikit-image is not installed, or lacks a photo.
    """
    folder = scikit_image()
    sources = []
    for name in SOURCES:
        try:
            with Image.open(folder / name) as image:
                sources.append(image.convert("RGB"))
        except FileNotFoundError as error:
            raise PhotoError(f"{folder} has no {name}; install scikit-image 0.26") from error
    chance = random.Random(0)
    return tuple(_cut(sources[index % len(sources)], chance) for index in range(count))


def _cut(image: Image.Image, chance: random.Random) -> bytes:
    """A random part of the image with the proportions of `SIZE`, resized to it, as a JPEG file."""
    share = chance.uniform(0.7, 1.0)
    largest = min(image.width / SIZE[0], image.height / SIZE[1])
    width, height = (side * largest * share for side in SIZE)
    left = chance.uniform(0, image.width - width)
    top = chance.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    stream = BytesIO()
    image.resize(SIZE, Image.Resampling.BICUBIC, box=box).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def scikit_image() -> Path:
    """The folder of its photos.

    Raises:
        PhotoError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise PhotoError("the photos are part of scikit-image, which is not installed here")
    return Path(spec.origin).parent / "data"
