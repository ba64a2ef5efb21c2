"""What `GATEWAY_JPEG_DRAFT` gains and costs: speed, and the cosine of pixels to the exact way.

`python -m benchmarks.experiments.jpeg_draft --photo FILE ...` takes JPEGs. With `--url` of a
gateway that has the setting and `--exact-url` of one that has not, the cosine of their vectors is
measured as well.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.experiments.decode_pool import RULES
from gateway.images.preprocess import EXACT, DecodeOptions, ImageLimits, preprocess
from gateway.models.values import Pixels

DRAFT = DecodeOptions(jpeg_draft=True)
SIDES = (640, 1280, 2560, 4000)  # pixels of the long side


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.jpeg_draft", description=__doc__
    )
    parser.add_argument("--photo", type=Path, action="append", required=True, metavar="FILE",
                        help="a photo; may be repeated")  # fmt: skip
    parser.add_argument("--repeat", type=int, default=5, metavar="N",
                        help="times each is decoded; the median counts (default: 5)")  # fmt: skip
    parser.add_argument("--url", help="a gateway that has the setting")
    parser.add_argument("--exact-url", metavar="URL", help="and one that has not")
    given = parser.parse_args(arguments)
    if bool(given.url) != bool(given.exact_url):
        parser.error("give both --url and --exact-url, or neither")
    photos = [Image.open(path).convert("RGB") for path in given.photo]
    sys.stdout.write(
        "| long side | exact, CPU ms | scaled, CPU ms | faster | lowest cosine of pixels |"
    )
    sys.stdout.write(" of vectors |\n|--:|--:|--:|--:|--:|--:|\n")
    for side in SIDES:
        files = [_resized(photo, side) for photo in photos]
        exact = [_timed(data, EXACT, given.repeat) for data in files]
        scaled = [_timed(data, DRAFT, given.repeat) for data in files]
        cosines = [_cosine(a[1], b[1]) for a, b in zip(exact, scaled, strict=True)]
        before = statistics.median(each[0] for each in exact) * 1000
        after = statistics.median(each[0] for each in scaled) * 1000
        served = ""
        if given.url and given.exact_url:
            vectors = (_vector(given.url, d) @ _vector(given.exact_url, d) for d in files)
            served = f"{min(vectors):.6f}"
        sys.stdout.write(
            f"| {side} | {before:.1f} | {after:.1f} | {before / after:.2f} x | "
            f"{min(cosines):.6f} | {served} |\n"
        )
    return 0


def _resized(photo: Image.Image, side: int) -> bytes:
    scale = side / max(photo.size)
    size = (round(photo.width * scale), round(photo.height * scale))
    stream = BytesIO()
    photo.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _timed(data: bytes, options: DecodeOptions, repeat: int) -> tuple[float, Pixels]:
    """Median CPU seconds, and the pixels."""
    limits, seconds = ImageLimits(), []
    for _ in range(repeat):
        start = time.thread_time()
        pixels = preprocess(data, RULES, limits, options)
        seconds.append(time.thread_time() - start)
    return statistics.median(seconds), pixels


def _cosine(one: Pixels, other: Pixels) -> float:
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _vector(url: str, data: bytes) -> NDArray[np.float32]:
    response = httpx.post(
        f"{url}/v1/embeddings/image",
        content=data,
        headers={"accept": "application/octet-stream"},
        timeout=60,
    )
    response.raise_for_status()
    return np.frombuffer(response.content, "<f4")


if __name__ == "__main__":
    sys.exit(main())
