"""Decodes and resizes photos without a service."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.systems.published import Manifest
from benchmarks.traffic.photos import photos

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def decode(data: bytes, manifest: Manifest) -> NDArray[np.uint8]:
    """A photo as uint8 [S, S, 3], resized and cropped for the model."""
    rules = manifest["preprocessing"]
    size = (rules["image_size"], rules["image_size"])
    with Image.open(BytesIO(data)) as opened:
        return np.asarray(ImageOps.fit(opened, size, FILTERS[rules["interpolation"]]))


def rate(manifest: Manifest, seconds: float) -> float:
    """Photos decoded and resized per second, with one thread per core."""
    start = time.perf_counter()
    done = _decode(manifest, seconds)
    return done / (time.perf_counter() - start)


def _decode(manifest: Manifest, seconds: float) -> int:
    """Decode and resize on all cores for `seconds`; return the number of photos."""
    files = photos()
    end = time.perf_counter() + seconds

    def work(first: int) -> int:
        done = 0
        while not done or time.perf_counter() < end:  # at least one, even if it starts late
            decode(files[(first + done) % len(files)], manifest)
            done += 1
        return done

    with ThreadPoolExecutor(cores()) as threads:
        return sum(threads.map(work, range(cores())))


def times(manifest: Manifest) -> Iterator[float]:
    """Seconds that each photo takes alone."""
    for photo in photos():
        start = time.perf_counter()
        decode(photo, manifest)
        yield time.perf_counter() - start


def cpu_ms(manifest: Manifest, seconds: float) -> float:
    """CPU milliseconds that a photo takes, on average, while all cores decode.

    One thread alone takes less, since cores share their caches, and often the core itself.
    """
    _decode(manifest, seconds / 4)
    start = time.process_time()
    done = _decode(manifest, seconds)
    return (time.process_time() - start) / done * 1000


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
