"""`python -m benchmarks.ceilings`: measures the limits of this machine, without a service.

- Each encoder alone in ONNX Runtime, with all cores, in batches. A packed text encoder gets the
  captions unpadded, and its best batch is the ceiling. Any other text encoder is timed at the
  served lengths, weighted by the number of captions that fall into each.
- Decoding and resizing alone, with one thread per core.
- Both in sequence on the same cores: 1 / (1 / encode + 1 / decode).
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import program
from benchmarks.reporting.page import record
from benchmarks.reporting.results import Row
from benchmarks.systems import decoding
from benchmarks.systems.encoders import Encoders, shares
from benchmarks.systems.published import Manifest, find, on_onnx_runtime, packed

BATCHES = (1, 8, 32)
LARGE = BATCHES[1:]


def measure(repository: Path, manifest: Manifest, seconds: float) -> Iterator[Row]:
    """Every ceiling, each measured for `seconds`.

    Raises:
        BenchmarkError: The model is not served by ONNX Runtime, or there are no photos.
    """
    encoders = Encoders(repository, on_onnx_runtime(manifest))
    yield from _images(encoders, manifest, seconds)
    if packed(manifest):
        yield from _packed_texts(encoders, manifest, seconds)
    else:
        yield from _texts(encoders, manifest, seconds)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    given = program.parsed(program.measuring("ceilings", __doc__, seconds=5.0), arguments)
    manifest = find(given.repository, given.model)
    record("ceilings", manifest, given, measure(given.repository, manifest, given.seconds))
    return 0


def _images(encoders: Encoders, manifest: Manifest, seconds: float) -> Iterator[Row]:
    images = {batch: encoders.image(batch, seconds / 3) for batch in BATCHES}
    for batch, taken in images.items():
        yield _row("encode-image", _rate(batch, taken), taken, batch=batch)
    encode = max(_rate(batch, taken) for batch, taken in images.items())
    yield _row("encode-image", encode, images[1])
    one = list(decoding.times(manifest))
    decode = decoding.rate(manifest, seconds)
    yield _row("decode", decode, one)
    both = [float(np.median(images[1]) + np.median(one))]
    yield _row("image", 1 / (1 / encode + 1 / decode), both)


def _packed_texts(encoders: Encoders, manifest: Manifest, seconds: float) -> Iterator[Row]:
    [encoder] = manifest["triton"]["text"]
    texts = {batch: encoders.captions(encoder, batch, seconds / 3) for batch in BATCHES}
    for batch, taken in texts.items():
        yield _row("encode-text", _rate(batch, taken), taken, batch=batch)
    best = max(_rate(batch, taken) for batch, taken in texts.items())
    yield _row("text", best, texts[1])


def _texts(encoders: Encoders, manifest: Manifest, seconds: float) -> Iterator[Row]:
    parts = shares(manifest)
    texts = manifest["triton"]["text"]
    used = [encoder for encoder in texts if parts[encoder["length"]]]
    best: dict[int, float] = {}
    for encoder in used if texts[-1] in used else [*used, texts[-1]]:
        for batch in LARGE:
            taken = encoders.text(encoder, batch, seconds / 3)
            rate = _rate(batch, taken)
            yield _row("encode-text", rate, taken, batch=batch, length=encoder["length"])
            best[encoder["length"]] = max(rate, best.get(encoder["length"], 0.0))
    mean = sum(parts[encoder["length"]] / best[encoder["length"]] for encoder in used)
    yield _row("text", 1 / mean, encoders.text(used[0], 1, seconds / 3))


def _rate(batch: int, taken: Sequence[float]) -> float:
    return batch * len(taken) / sum(taken)


def _row(kind: str, rate: float, taken: Sequence[float], **labels: int) -> Row:
    """A ceiling's row; `p50_ms` is the time of one call, or of one item if there are no batches."""
    values = {"per_second": rate, "p50_ms": float(np.median(taken)) * 1000}
    return Row({"system": "ceiling", "kind": kind} | labels, values)


if __name__ == "__main__":
    sys.exit(program.run(main))
