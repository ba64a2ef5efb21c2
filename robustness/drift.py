"""Faults of preprocessing: their cost, and recognition of the fault behind deviating vectors."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from openclip_triton.values import Vectors
from PIL import Image

from benchmarks.traffic.errors import BenchmarkError
from gateway.images.preprocess import resized_size
from gateway.models.manifest import Preprocessing
from robustness.pictures import png
from robustness.service import NORMALISATIONS, Pixels, Statistics, Subject, embed, prepare

NONE = "no fault"
FAST = "fast mode of the gateway"
SCALED = "JPEG decoded at a fraction"
OTHER_MODES = {
    "shortest": ("squash", "squashed, not cropped"),
    "longest": ("squash", "squashed, not padded"),
    "squash": ("shortest", "cropped, not squashed"),
}
AT_A_TIME = 64  # pictures whose pixels are kept, after each fault
FILTERS = Image.Resampling
Resize = Callable[[Image.Image, tuple[int, int]], Image.Image]


@dataclass(frozen=True, slots=True)
class Match:
    """A fault, and its distance from the observation; 0 is a full explanation."""

    fault: str
    distance: float
    cosine: float  # median of the fault's own


def vectors(subject: Subject, files: Sequence[bytes]) -> dict[str, Vectors]:
    """The vectors of the pictures after each fault, float32 [n, D], `NONE` first.

    Includes fast mode if the subject has a gateway in that mode.
    """
    parts: dict[str, list[Vectors]] = {}
    for start in range(0, len(files), AT_A_TIME):
        pixels = [_faulty(data, subject.rules) for data in files[start : start + AT_A_TIME]]
        for fault in pixels[0]:
            parts.setdefault(fault, []).append(subject.pixels([each[fault] for each in pixels]))
    if subject.fast:
        parts[FAST] = [embed(subject.fast, subject.model, files)]
    return {fault: np.concatenate(part) for fault, part in parts.items()}


def _faulty(data: bytes, rules: Preprocessing) -> dict[str, Pixels]:
    """A picture's pixels for the model after each fault, uint8 [S, S, 3]."""
    right, image = prepare(data, rules), Image.open(BytesIO(data)).convert("RGB")
    resizes: dict[str, Resize] = {
        "nearest": functools.partial(Image.Image.resize, resample=FILTERS.NEAREST),
        "bilinear without antialias": functools.partial(_sampled, resample=FILTERS.BILINEAR),
        "bicubic without antialias": functools.partial(_sampled, resample=FILTERS.BICUBIC),
        "bilinear": functools.partial(Image.Image.resize, resample=FILTERS.BILINEAR),
        "bicubic": functools.partial(Image.Image.resize, resample=FILTERS.BICUBIC),
        "Lanczos": functools.partial(Image.Image.resize, resample=FILTERS.LANCZOS),
    }
    own = resizes.pop(rules.interpolation)
    mode, misshapen = OTHER_MODES[rules.resize_mode]
    other = rules.model_copy(update={"resize_mode": mode})
    scaled = Image.open(BytesIO(data))
    scaled.draft("RGB", resized_size(*image.size, rules))  # has an effect on JPEGs only
    return {
        NONE: right,
        **{name: _pixels(image, rules, resize) for name, resize in resizes.items()},
        misshapen: _pixels(image, other, own),
        "BGR": np.ascontiguousarray(right[..., ::-1]),
        **{
            f"mean and std: {name}": _normalised(right, rules, statistics)
            for name, statistics in NORMALISATIONS.items()
            if not np.allclose(statistics, (rules.mean, rules.std), atol=1e-3)
        },
        SCALED: _pixels(scaled.convert("RGB"), rules, own),
    }


def recognise(seen: NDArray[np.floating], known: dict[str, Vectors]) -> list[Match]:
    """Order faults by how well they explain the observation, the likeliest first.

    Args:
        seen: Of the same pictures: vectors, float [n, D]; or the cosine of each to the right
            vector, float [n]; or the median of these cosines, a scalar array.
        known: The vectors of each fault.

    Raises:
        BenchmarkError: `seen` has another number of pictures or another size, or is not finite.
    """
    right = known[NONE]
    if seen.shape not in ((), right.shape[:1], right.shape):
        raise BenchmarkError(
            f"give a number, an array of {len(right)} cosines, or one of {len(right)} x "
            f"{right.shape[1]} vectors; this one is {' x '.join(map(str, seen.shape))}"
        )
    if not np.isfinite(seen).all():
        raise BenchmarkError("give finite numbers; this observation has others")
    if seen.ndim == 2:
        lengths = np.linalg.norm(seen, axis=1, keepdims=True)
        seen = seen / np.where(lengths > 0, lengths, 1)
    matches = []
    for fault, made in known.items():
        cosines = (made * right).sum(axis=1)
        if seen.ndim == 2:
            distance = 1 - (made * seen).sum(axis=1).mean()
        elif seen.ndim == 1:
            distance = np.sqrt(((cosines - seen) ** 2).mean())
        else:
            distance = abs(np.median(cosines) - seen)
        matches.append(Match(fault, float(distance), float(np.median(cosines))))
    return sorted(matches, key=lambda match: match.distance)


def _pixels(image: Image.Image, rules: Preprocessing, resize: Resize) -> Pixels:
    """Preprocess with another filter; crop and border are the gateway's."""
    resized = resize(image, resized_size(*image.size, rules))
    return prepare(png(np.asarray(resized)), rules)


def _sampled(image: Image.Image, size: tuple[int, int], resample: FILTERS) -> Image.Image:
    """Resize without antialiasing, as OpenCV and old versions of PyTorch do."""
    box = (0, 0, *image.size)
    return image.transform(size, Image.Transform.EXTENT, box, resample=resample)


def _normalised(pixels: Pixels, rules: Preprocessing, statistics: Statistics) -> Pixels:
    """The pixels that, with the model's own mean and std, give the result of other statistics."""
    (mean, std), (own_mean, own_std) = (np.array(s) for s in (statistics, (rules.mean, rules.std)))
    changed = ((pixels / 255 - mean) / std * own_std + own_mean) * 255
    return np.asarray(changed.round().clip(0, 255), np.uint8)
