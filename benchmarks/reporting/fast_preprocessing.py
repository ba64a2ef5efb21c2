"""Gain and cost of `GATEWAY_PREPROCESSING=fast`: speed, and cosine to exact preprocessing.

`python -m benchmarks.reporting.fast_preprocessing` measures a published model that ONNX Runtime
serves, with its preprocessing and its image encoder. Without `--photo`, it takes all photos of
scikit-image. Each photo is measured as a JPEG of several sizes; the runs are interleaved.
"""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from benchmarks import program
from benchmarks.reporting.tables import markdown
from benchmarks.systems.encoders import Encoders
from benchmarks.systems.published import find, on_onnx_runtime
from benchmarks.traffic.photos import scikit_image
from gateway.images import heap
from gateway.images.preprocess import EXACT, DecodeOptions, ImageLimits, preprocess
from gateway.models.manifest import Preprocessing

LIMITS = ImageLimits()
FAST = DecodeOptions(fast=True)
SIDES = (0, 360, 640, 1280, 2560)  # pixels of the long side; 0: unchanged
SMALLEST = 64  # pixels of a photo's short side
ROUNDS = 5
HEADER = ("long side", "exact, CPU ms", "fast, CPU ms", "faster, with the least and the most",
          "lowest cosine of pixels", "of vectors")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit code."""
    made = program.parser("reporting.fast_preprocessing", __doc__)
    program.add_model(made)
    made.add_argument("--photo", type=Path, action="append", metavar="FILE",
                      help="repeatable (default: all of scikit-image's)")  # fmt: skip
    given = made.parse_args(arguments)
    heap.pin()
    manifest = on_onnx_runtime(find(given.repository, given.model))
    encoders = Encoders(given.repository, manifest)
    rules = Preprocessing(**manifest["preprocessing"])
    photos = list(_photos(given.photo or sorted(scikit_image().iterdir())))
    lines = []
    for side in SIDES:
        files = [_jpeg(photo, side) for photo in photos]
        rounds = [[_cpu_ms(files, rules, way) for way in (EXACT, FAST)] for _ in range(ROUNDS)]
        exact, fast = (statistics.median(each) for each in zip(*rounds, strict=True))
        faster = sorted(one / other for one, other in rounds)
        pixels = [
            np.stack([preprocess(each, rules, LIMITS, way) for each in files])
            for way in (EXACT, FAST)
        ]
        cosines = (_lowest_cosine(*each) for each in (pixels, map(encoders.vectors, pixels)))
        spread = f"{faster[ROUNDS // 2]:.2f} ({faster[0]:.2f} to {faster[-1]:.2f})"
        shown = [f"{each:.6f}" for each in cosines]
        lines.append([side or "as it is", exact, fast, spread, *shown])
        print(f"{lines[-1]}", file=sys.stderr)
    print(f"{manifest['id']}, {len(photos)} photos\n\n{markdown(HEADER, lines)}")
    return 0


def _photos(files: Sequence[Path]) -> Iterator[Image.Image]:
    """The files that are pictures and not tiny, in RGB."""
    for path in files:
        try:
            with Image.open(path) as opened:
                if min(opened.size) >= SMALLEST and not opened.mode.startswith(("I", "F")):
                    yield opened.convert("RGB")
        except UnidentifiedImageError:
            continue


def _jpeg(photo: Image.Image, side: int) -> bytes:
    if side:
        scale = side / max(photo.size)
        size = round(photo.width * scale), round(photo.height * scale)
        photo = photo.resize(size, Image.Resampling.LANCZOS)
    stream = BytesIO()
    photo.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _cpu_ms(files: Sequence[bytes], rules: Preprocessing, way: DecodeOptions) -> float:
    start = time.thread_time()
    for data in files:
        preprocess(data, rules, LIMITS, way)
    return (time.thread_time() - start) * 1000 / len(files)


def _lowest_cosine(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (one, other))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


if __name__ == "__main__":
    sys.exit(program.run(main))
