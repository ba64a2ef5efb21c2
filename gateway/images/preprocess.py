"""Encoded image -> uint8 [S, S, 3], bit-equal to OpenCLIP's own evaluation transform.

The rules are those of `open_clip.transform.image_transform(is_train=False)`, which uses
torchvision's `resize`, `center_crop` and `pad` for PIL images: the image is resized and cropped in
its stored mode, and converted to RGB last. `DecodeOptions` can depart from these rules.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from gateway.errors import ImageError, RequestError, TooLarge
from gateway.images import fast
from gateway.images.header import decode_bytes, swaps, turn_of
from gateway.images.jpeg import coefficient_bytes
from gateway.images.memory import MemoryBudget
from gateway.images.structure import (
    Source,
    check_numbers,
    check_values,
    prefix_code_bytes,
    structure_bytes,
)
from gateway.models.manifest import Preprocessing
from gateway.models.values import Pixels

# The formats that Pillow may read. Its other readers are less reviewed, and some start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # the address of an object, which no client may learn
_LONGEST_SIDE = 2**21  # pixels; to resize, each takes 32 bytes of weights
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The limits of one image."""

    max_bytes: int = 32 * 2**20  # encoded
    max_pixels: int = 50_000_000  # decoded
    max_resized_pixels: int = 4_000_000  # after the resize, before the crop
    max_decode_bytes: int = 256 * 2**20  # peak memory of decoding and resizing all images at a time

    @property
    def alone_bytes(self) -> int:
        """Limit of the peak memory of one image that is decoded alone."""
        return 2 * self.max_decode_bytes


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Departures from OpenCLIP's own transform; by default none."""

    exif_orientation: bool = False  # apply the orientation in the EXIF
    fast: bool = False  # as `gateway.images.fast` does


EXACT = DecodeOptions()
Decode = Callable[[bytes, Preprocessing], Pixels]  # raises the errors of `preprocess`


class Decoder:
    """Decodes images in the calling thread; all threads share one memory budget. Thread-safe."""

    def __init__(self, limits: ImageLimits, options: DecodeOptions = EXACT) -> None:
        self._limits = limits
        self._options = options
        self._memory = MemoryBudget(limits.max_decode_bytes)

    def __call__(self, data: bytes, rules: Preprocessing) -> Pixels:
        """See `preprocess`."""
        return preprocess(data, rules, self._limits, self._options, self._memory)


def preprocess(
    data: bytes,
    rules: Preprocessing,
    limits: ImageLimits,
    options: DecodeOptions = EXACT,
    memory: MemoryBudget | None = None,
) -> Pixels:
    """Decode one image and prepare it for the image encoder.

    Blocks for milliseconds to seconds: call it in a thread. Decode the first frame of an
    animation. After it reads the header, it waits until `memory` has room for the decoding.

    Returns:
        uint8 [S, S, 3], RGB, not normalised.

    Raises:
        ImageError: Not an image, not an accepted format, truncated, or corrupt.
        TooLarge: The image is over one of the limits.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"the image has {len(data):,} bytes; the limit (GATEWAY_MAX_IMAGE_BYTES) is "
            f"{limits.max_bytes:,}"
        )
    try:
        with _open(data) as image:
            turn = turn_of(image) if options.exif_orientation else None
            width, height = image.size[::-1] if swaps(turn) else image.size
            _check_size(width, height, rules, limits)
            check_values(image, data)
            size = resized_size(width, height, rules)
            stored = size[::-1] if swaps(turn) else size
            coefficients = coefficient_bytes(image, data)
            if options.fast:
                fast.scale_decoding(image, stored)
            structure = structure_bytes(image, data)
            needed = decode_bytes(image, turned=turn is not None) + coefficients + structure
            if options.fast and fast.applies(image):
                needed += fast.copies_bytes(image, stored)
            _check_memory(image, needed, structure, limits)
            needed += prefix_code_bytes(image, data)
            with memory.taken(needed) if memory else nullcontext():
                image.load()
                upright = image if turn is None else image.transpose(turn)
                return _pixels(upright, size, rules, options)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(
            "the image has more pixels than the limit (GATEWAY_MAX_IMAGE_PIXELS) of "
            f"{limits.max_pixels:,}"
        ) from error
    except Exception as error:  # a bad file makes Pillow raise anything, even KeyError
        raise ImageError(f"the image cannot be decoded: {_reason(error)}") from error


def resized_size(width: int, height: int, rules: Preprocessing) -> tuple[int, int]:
    """Width and height of an image after the resize, before the crop.

    As torchvision's `Resize(S)` for `shortest` (the long side is rounded down), and
    `open_clip.transform.ResizeKeepRatio` for `longest` (both sides are rounded to even halves).
    """
    size = rules.image_size
    if rules.resize_mode == "squash":
        return size, size
    if rules.resize_mode == "longest":
        ratio = max(height / size, width / size)
        return round(width / ratio), round(height / ratio)
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _open(data: bytes) -> ImageFile.ImageFile:
    check_numbers(data)
    try:
        return Image.open(Source(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            "the bytes are not an image of an accepted format "
            "(JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, JPEG 2000)"
        ) from None


def _check_size(width: int, height: int, rules: Preprocessing, limits: ImageLimits) -> None:
    """Refuse an image before any pixel is decoded."""
    if not width or not height:
        raise ImageError(f"the image has {width} x {height} pixels, which is none")
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"the image has {width} x {height} pixels; the limit (GATEWAY_MAX_IMAGE_PIXELS) is "
            f"{limits.max_pixels:,} in all"
        )
    if max(width, height) > _LONGEST_SIDE:
        raise TooLarge(
            f"the image has {width} x {height} pixels; no side may have over {_LONGEST_SIDE:,}"
        )
    new_width, new_height = resized_size(width, height, rules)
    if new_width * new_height > limits.max_resized_pixels:
        raise TooLarge(
            f"the image has {width} x {height} pixels, so extreme a shape that resizing its short "
            f"side to {rules.image_size} would make {new_width} x {new_height}; the limit "
            f"(GATEWAY_MAX_RESIZED_PIXELS) is {limits.max_resized_pixels:,} in all"
        )
    if not new_width or not new_height:
        raise ImageError(
            f"the image has {width} x {height} pixels, so extreme a shape that resizing its long "
            f"side to {rules.image_size} would leave nothing of the short one"
        )


def _check_memory(image: Image.Image, needed: int, structure: int, limits: ImageLimits) -> None:
    """Refuse an image over the limits; structure has its own, as honest files have little."""
    if structure <= limits.max_decode_bytes and needed <= limits.alone_bytes:
        return
    pixels = image.width * image.height
    raise TooLarge(
        f"decoding the image ({image.format}, {image.width} x {image.height} pixels) would take "
        f"{needed:,} bytes; the limit (twice GATEWAY_MAX_DECODE_BYTES, half of it for tiles and "
        f"frames) is {limits.alone_bytes:,}, which is {limits.alone_bytes * pixels // needed:,} "
        "pixels of such an image"
    )


def _pixels(
    image: Image.Image, size: tuple[int, int], rules: Preprocessing, options: DecodeOptions
) -> Pixels:
    """Resize to `size`, which `resized_size` gave, then crop or pad."""
    if options.fast and fast.applies(image):
        return fast.pixels(image, size, rules)
    if size != image.size:
        image = image.resize(size, _FILTERS[rules.interpolation])
    if rules.resize_mode == "longest":
        image = _pad(image, rules.image_size, rules.fill_color)
    return np.asarray(_centre_crop(image, rules.image_size).convert("RGB"))


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    left = round((image.width - size) / 2.0)  # `round` takes halves to even, as torchvision does
    top = round((image.height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def _pad(image: Image.Image, size: int, fill: int) -> Image.Image:
    """As `open_clip.transform.center_crop_or_pad`, with torchvision's colour for each mode."""
    wide, high = max(0, size - image.width), max(0, size - image.height)
    if not wide and not high:
        return image
    bands = len(image.getbands())
    colour = fill if bands == 1 else (fill,) * bands
    border = (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2)
    padded = ImageOps.expand(image, border, colour)
    if image.mode == "P":
        padded.putpalette(image.getpalette() or [])
    return padded


def _reason(error: Exception) -> str:
    said = _ADDRESS.sub("", f"{error}").strip().rstrip(".")
    return said or type(error).__name__
