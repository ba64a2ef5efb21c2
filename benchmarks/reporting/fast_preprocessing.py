"""What `GATEWAY_PREPROCESSING=fast` gains and costs: speed, and the cosine to the exact way.

`python -m benchmarks.reporting.fast_preprocessing` measures a published model that ONNX Runtime
serves, with its preprocessing and its image encoder. Without `--photo`, it takes all photos of
scikit-image. Each photo is measured as a JPEG of several sizes; the runs are interleaved.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from benchmarks import program
from benchmarks.systems.encoders import Encoders
from benchmarks.systems.published import find, on_onnx_runtime
from benchmarks.traffic.photos import scikit_image
from gateway.images import heap
from gateway.images.preprocess import EXACT, DecodeOptions, ImageLimits, preprocess
from gateway.models.manifest import Preprocessing
from gateway.models.values import Pixels

LIMITS = ImageLimits()
FAST = DecodeOptions(fast=True)
SIDES = (0, 360, 640, 1280, 2560)  # pixels of the long side; 0: as it is
SMALLEST = 64  # pixels of a photo's short side
HEADER = (
    "| long side | exact, CPU ms | fast, CPU ms | faster | lowest cosine of pixels | of vectors |\n"
    "|--:|--:|--:|--:|--:|--:|\n"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = program.parser("reporting.fast_preprocessing", __doc__)
    program.add_model(parser)
    parser.add_argument("--photo", type=Path, action="append", metavar="FILE",
                        help="may be repeated (default: all of scikit-image's)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, metavar="N",
                        help="how often each is measured (default: 5)")  # fmt: skip
    given = parser.parse_args(arguments)
    return program.run(lambda: _measure(given))


def _measure(given: argparse.Namespace) -> int:
    heap.pin()
    manifest = on_onnx_runtime(find(given.repository, given.model))
    encoders = Encoders(given.repository, manifest)
    rules = Preprocessing(**manifest["preprocessing"])
    photos = list(_photos(given.photo or sorted(scikit_image().iterdir())))
    sys.stdout.write(f"{manifest['id']}, {len(photos)} photos\n\n{HEADER}")
    for side in SIDES:
        files = [_jpeg(photo, side) for photo in photos]
        rounds = [_round(files, rules) for _ in range(given.rounds)]
        exact, fast = (statistics.median(each) for each in zip(*rounds, strict=True))
        faster = sorted(one / other for one, other in rounds)
        pixels = [[preprocess(each, rules, LIMITS, way) for each in files] for way in (EXACT, FAST)]
        vectors = [encoders.vectors(np.stack(each)) for each in pixels]
        of_pixels = min(map(_cosine, *pixels))
        sys.stdout.write(
            f"| {side or 'as it is'} | {exact:.1f} | {fast:.1f} | {statistics.median(faster):.2f} "
            f"({faster[0]:.2f} to {faster[-1]:.2f}) | {of_pixels:.6f} | "
            f"{(vectors[0] * vectors[1]).sum(axis=1).min():.6f} |\n"
        )
        sys.stdout.flush()
    return 0


def _photos(files: Sequence[Path]) -> Iterator[Image.Image]:
    """Those that are pictures, and not tiny, in RGB."""
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


def _round(files: Sequence[bytes], rules: Preprocessing) -> tuple[float, float]:
    """CPU milliseconds of a photo, the exact way and the fast one."""
    spent = [0.0, 0.0]
    for data in files:
        for index, way in enumerate((EXACT, FAST)):
            start = time.thread_time()
            preprocess(data, rules, LIMITS, way)
            spent[index] += time.thread_time() - start
    return spent[0] * 1000 / len(files), spent[1] * 1000 / len(files)


def _cosine(one: Pixels, other: Pixels) -> float:
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


if __name__ == "__main__":
    sys.exit(main())
