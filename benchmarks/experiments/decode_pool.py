"""What decoding in processes costs: images a second, in threads and in processes, in one run.

`python -m benchmarks.experiments.decode_pool --photo FILE ...`; without files, one is drawn.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.systems.decoding import cores
from gateway.images.pool import DecodePool
from gateway.images.preprocess import Decode, Decoder, ImageLimits
from gateway.models.manifest import Preprocessing

RULES = Preprocessing(
    image_size=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    resize_mode="shortest",
    interpolation="bicubic",
)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of one way gave."""

    rate: float  # images/s
    cpu_ms: float  # for each image, of all processes together


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.decode_pool", description=__doc__
    )
    parser.add_argument("--photo", type=Path, action="append", default=[], metavar="FILE",
                        help="may be repeated (default: one is drawn)")  # fmt: skip
    parser.add_argument("--count", type=int, default=cores(), metavar="N",
                        help="threads, and processes (default: one for each core)")  # fmt: skip
    parser.add_argument("--images", type=int, default=200, metavar="N",
                        help="in each round (default: 200)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, metavar="N",
                        help="of which the medians count (default: 5)")  # fmt: skip
    given = parser.parse_args(arguments)
    photos = [path.read_bytes() for path in given.photo] or [drawn()]
    images = [photos[number % len(photos)] for number in range(given.images)]
    limits = ImageLimits()
    start = time.perf_counter()
    pool = DecodePool(given.count, limits)
    started = time.perf_counter() - start
    try:
        processes = (os.getpid(), *pool.processes())
        in_threads, in_processes = _side_by_side(
            (Decoder(limits), pool), images, given.count, given.rounds, processes
        )
        memory = [_resident_mib(process) for process in pool.processes()]
    finally:
        pool.close()
    rates = [statistics.median(each.rate for each in side) for side in (in_threads, in_processes)]
    costs = [statistics.median(each.cpu_ms for each in side) for side in (in_threads, in_processes)]
    pairs = zip(in_threads, in_processes, strict=True)
    ratio = statistics.median(b.rate / a.rate for a, b in pairs)
    size = statistics.mean(map(len, photos)) / 1000
    sys.stdout.write(
        f"{given.count} at a time, images of {size:.0f} kB, medians of {given.rounds} rounds\n"
        f"threads    {rates[0]:.1f} images/s, {costs[0]:.2f} ms of CPU for each\n"
        f"processes  {rates[1]:.1f} images/s ({ratio:.2f} of threads), {costs[1]:.2f} ms of CPU; "
        f"{statistics.mean(memory):.0f} MiB each, ready after {started:.1f} s\n"
    )
    return 0


def _side_by_side(
    decoders: tuple[Decode, Decode],
    images: Sequence[bytes],
    count: int,
    rounds: int,
    processes: Sequence[int],
) -> tuple[list[Round], list[Round]]:
    found: tuple[list[Round], list[Round]] = ([], [])
    with ThreadPoolExecutor(count) as threads:
        for _ in range(rounds):
            for decode, side in zip(decoders, found, strict=True):
                side.append(_round(threads, decode, images, processes))
    return found


def _round(
    threads: ThreadPoolExecutor, decode: Decode, images: Sequence[bytes], processes: Sequence[int]
) -> Round:
    start, spent = time.perf_counter(), _cpu_s(processes)
    for _ in threads.map(decode, images, [RULES] * len(images)):
        pass
    took, spent = time.perf_counter() - start, _cpu_s(processes) - spent
    return Round(len(images) / took, spent * 1000 / len(images))


def _cpu_s(processes: Sequence[int]) -> float:
    fields = (
        Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in processes
    )
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _resident_mib(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def drawn() -> bytes:
    """A JPEG of 0.3 megapixels with slopes and some noise."""
    slope = np.add.outer(np.arange(480), np.arange(640))[..., None] // 5
    noise = np.random.default_rng(0).integers(0, 24, (480, 640, 3))
    stream = BytesIO()
    Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())
