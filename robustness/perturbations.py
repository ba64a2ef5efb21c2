"""Changes of the pixels for a model, by strength."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from gateway.images.header import ORIENTATION
from robustness.pictures import png
from robustness.service import Pixels

GREY = 128
BLOCKS = 8  # along a side
TURNS = {3: 2, 6: 1, 8: 3}  # orientation -> counter-clockwise quarter turns of the stored pixels

Random = np.random.Generator
Floats = NDArray[np.float64]
Apply = Callable[[Pixels, float, Random], bytes]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A change of pixels, from its weakest to its strongest.

    `apply` takes uint8 [S, S, 3], a strength and a random generator, and encodes the result.
    """

    name: str
    unit: str  # of the strengths
    strengths: tuple[float, ...]
    apply: Apply

    def files(self, pixels: list[Pixels], strength: float, seed: int) -> Iterator[bytes]:
        """Change each picture; the random numbers are the same at every strength."""
        for i, each in enumerate(pixels):
            yield self.apply(each, strength, np.random.default_rng([seed, i]))


def _noise(make: Callable[[Floats, float, Random], Floats]) -> Apply:
    """Apply `make` to pixels from 0 to 1; then round, and clip to uint8."""

    def apply(pixels: Pixels, strength: float, rng: Random) -> bytes:
        changed = make(pixels / 255, strength, rng) * 255
        return png(changed.round().clip(0, 255).astype(np.uint8))

    return apply


def _image(make: Callable[[Image.Image, float], Image.Image]) -> Apply:
    return lambda pixels, strength, _: png(
        np.asarray(make(Image.fromarray(pixels), strength), np.uint8)
    )


def _grey(pixels: Pixels, percent: float, rng: Random) -> bytes:
    return png(np.where(_first(percent, rng, pixels.shape[:2])[..., None], np.uint8(GREY), pixels))


def _grey_blocks(pixels: Pixels, percent: float, rng: Random) -> bytes:
    side = np.arange(len(pixels)) * BLOCKS // len(pixels)
    blocks = _first(percent, rng, (BLOCKS, BLOCKS))[np.ix_(side, side)]
    return png(np.where(blocks[..., None], np.uint8(GREY), pixels))


def _first(percent: float, rng: Random, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A random mask; a larger share includes a smaller one."""
    order = rng.permutation(np.prod(shape)).reshape(shape)
    return np.asarray(order < round(order.size * percent / 100))


def _salt_and_pepper(pixels: Floats, percent: float, rng: Random) -> Floats:
    hit = _first(percent, rng, pixels.shape[:2])
    return np.where(hit[..., None], rng.integers(2, size=(*hit.shape, 1)), pixels)


def _jpeg(pixels: Pixels, quality: float, _: Random) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=round(quality))
    return stream.getvalue()


def _smaller(image: Image.Image, percent: float) -> Image.Image:
    side = max(1, round(image.width * percent / 100))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _tagged(pixels: Pixels, orientation: float, _: Random) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = round(orientation)
    return png(pixels, exif)


def _turned(pixels: Pixels, orientation: float, rng: Random) -> bytes:
    stored = np.ascontiguousarray(np.rot90(pixels, TURNS[round(orientation)]))
    return _tagged(stored, orientation, rng)


TENTHS = tuple(range(0, 101, 10))
GREYS = (
    Perturbation("grey pixels", "% of pixels", TENTHS, _grey),
    Perturbation("grey blocks", "% of 8 x 8 blocks", TENTHS, _grey_blocks),
)
NOISES = (
    Perturbation("Gaussian noise", "std, white is 1", (0.02, 0.05, 0.1, 0.2, 0.4),
                 _noise(lambda x, s, rng: x + rng.normal(0, s, x.shape))),
    Perturbation("salt and pepper", "% of pixels", (1, 3, 10, 20, 40), _noise(_salt_and_pepper)),
    Perturbation("speckle", "std, of each value", (0.05, 0.1, 0.2, 0.4, 0.8),
                 _noise(lambda x, s, rng: x * (1 + rng.normal(0, s, x.shape)))),
    Perturbation("Poisson noise", "photons of white", (1000, 300, 100, 30, 10),
                 _noise(lambda x, peak, rng: rng.poisson(x * peak) / peak)),
    Perturbation("uniform noise", "half width, white is 1", (0.03, 0.1, 0.2, 0.4, 0.8),
                 _noise(lambda x, s, rng: x + rng.uniform(-s, s, x.shape))),
    Perturbation("blur", "std, % of the side", (0.5, 1, 2, 4, 8),
                 _image(lambda im, s: im.filter(ImageFilter.GaussianBlur(s * im.width / 100)))),
    Perturbation("JPEG", "quality", (95, 75, 50, 25, 10, 5), _jpeg),
    Perturbation("downscaling", "% of the side", (75, 50, 33, 25, 12.5), _image(_smaller)),
    Perturbation("brightness", "factor", (0.25, 0.5, 0.75, 1.25, 1.5, 2),
                 _image(lambda im, s: ImageEnhance.Brightness(im).enhance(s))),
    Perturbation("contrast", "factor", (0.1, 0.25, 0.5, 0.75, 1.5, 2),
                 _image(lambda im, s: ImageEnhance.Contrast(im).enhance(s))),
    Perturbation("EXIF tag alone", "orientation", tuple(TURNS), _tagged),
    Perturbation("EXIF tag on turned pixels", "orientation", tuple(TURNS), _turned),
)  # fmt: skip
