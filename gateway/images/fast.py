"""Fast preprocessing: decodes JPEGs at a fraction of their size, and resizes with SIMD.

The filters are those of the exact path, with 16-bit coefficients; cropped pixels are not computed.
A picture that is far too large is first scaled down: a JPEG while it is decoded, others by
averaging. Only RGB is resized here; other modes are left to Pillow.
"""

import numpy as np
from cykooz_resizer import (
    CropBox,
    FilterType,
    ImageData,
    PixelType,
    ResizeAlg,
    ResizeOptions,
    Resizer,
)
from PIL import Image

from gateway.models.manifest import Preprocessing
from gateway.models.values import Pixels

_PIXEL_BYTES = 6  # of the two copies that `pixels` takes
_FILTERS = {
    "bicubic": ResizeAlg.convolution(FilterType.catmull_rom),
    "bilinear": ResizeAlg.convolution(FilterType.bilinear),
}


def scale_decoding(image: Image.Image, size: tuple[int, int]) -> None:
    """Set an opened JPEG to be decoded at 1/2, 1/4 or 1/8, as far as `size` allows."""
    factor = _factor(image, size)
    if image.format == "JPEG" and factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))


def applies(image: Image.Image) -> bool:
    """Whether `pixels` takes an image."""
    return image.mode == "RGB"


def copies_bytes(image: Image.Image, size: tuple[int, int]) -> int:
    """Memory that `pixels` takes in addition to the image, in bytes."""
    return _PIXEL_BYTES * image.width * image.height // _factor(image, size) ** 2


def pixels(image: Image.Image, size: tuple[int, int], rules: Preprocessing) -> Pixels:
    """Resize an upright RGB image to `size`, which `resized_size` gave, then crop or pad.

    Returns:
        uint8 [S, S, 3].
    """
    side, factor = rules.image_size, _factor(image, size)
    left, wide = _kept(image.width / factor, size[0], side)
    top, high = _kept(image.height / factor, size[1], side)
    if factor > 1:
        image = image.reduce(factor)
    source = ImageData(image.width, image.height, PixelType.U8x3, image.tobytes())
    target = ImageData(min(side, size[0]), min(side, size[1]), PixelType.U8x3)
    box = CropBox(left, top, wide, high)
    Resizer().resize(source, target, ResizeOptions(_FILTERS[rules.interpolation], crop_box=box))
    width, height = target.width, target.height
    found = np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, 3)
    if (width, height) == (side, side):
        return found
    padded = np.full((side, side, 3), rules.fill_color, np.uint8)
    x, y = (side - width) // 2, (side - height) // 2
    padded[y : y + height, x : x + width] = found
    return padded


def _factor(image: Image.Image, size: tuple[int, int]) -> int:
    """The factor to scale down by first: 2 keeps at least twice `size`, larger ones three times."""
    ratio = min(image.width // size[0], image.height // size[1])
    return max(1, ratio // 3, min(2, ratio // 2))


def _kept(extent: float, size: int, side: int) -> tuple[float, float]:
    """Start and length of the part of a side that the crop keeps, before the resize."""
    pixel = extent / size
    left = max(0, round((size - side) / 2)) * pixel
    return left, min(min(size, side) * pixel, extent)
