"""Batches prepared items for an encoder, and measures a graph's cosines and latency on them."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.gate import metrics, runners
from export.gate.metrics import Vectors
from export.gate.reference import Inputs, References
from export.gate.variant_report import Latency
from export.precision.variants import Measure
from export.source import graph
from gateway.models.manifest import PIXELS, TOKEN_IDS
from gateway.models.tokenizer import padded

BATCH = 16
TIMED_RUNS = 40
FEW = 16  # items to find overflows with
QUICK = 96  # items to compare recipes with; good ones run on the whole set


@dataclass(frozen=True, slots=True)
class Feed:
    """Batches of each encoder's input."""

    pixels: list[NDArray[Any]]  # uint8 [n, S, S, 3]
    token_ids: dict[int, list[NDArray[Any]]]  # int32 [n, length], by length


def feed_of(inputs: Inputs, lengths: tuple[int, ...], *, few: bool = False) -> Feed:
    """Batch prepared items; each text at the shortest length that fits."""
    limit = FEW if few else None
    by_length: dict[int, list[NDArray[Any]]] = {}
    for ids in inputs.token_ids[:limit]:
        length = next(n for n in lengths if len(ids) <= n)
        by_length.setdefault(length, []).append(padded(ids, length, inputs.pad_id))
    batches = {length: _batches(np.stack(rows)) for length, rows in by_length.items()}
    return Feed(_batches(inputs.pixels[:limit]), batches)


def image_measure(inputs: Inputs, truth: References, *, fp8: bool = False) -> Measure:
    """Make a function that measures the mean cosine of an image encoder's graph to PyTorch."""
    rows = metrics.spread(len(inputs.pixels), QUICK)
    return _measure(PIXELS, [(inputs.pixels[rows], truth.image[rows])], fp8=fp8)


def text_measure(
    inputs: Inputs, truth: References, lengths: tuple[int, ...], *, fp8: bool = False
) -> Measure:
    """Make a function that measures a text encoder's mean cosine, the lowest of all lengths."""
    rows = metrics.spread(len(inputs.token_ids), QUICK)
    parts = []
    for length in lengths:
        fits = [row for row in rows if len(inputs.token_ids[row]) <= length]
        if fits:
            ids = [padded(inputs.token_ids[row], length, inputs.pad_id) for row in fits]
            parts.append((np.stack(ids), truth.text[fits]))
    return _measure(TOKEN_IDS, parts, fp8=fp8)


def _measure(name: str, parts: Sequence[tuple[NDArray[Any], Vectors]], *, fp8: bool) -> Measure:
    """Make a function that measures a graph's mean cosine, the lowest of all parts.

    A part is items of one shape, [n, ...], with PyTorch's vectors of them, float32 [n, D].
    """
    shapes = [(1, *items.shape[1:]) for items, _ in parts]

    def measure(proto: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            graph.save(proto, path, "candidate")
            runners.check_runs(path, shapes, fp8=fp8)
            run = runners.onnx_runner(path, name, fp8=fp8)
            means = []
            for items, truth in parts:
                found = np.concatenate([run(batch) for batch in _batches(items)])
                means.append(float(metrics.row_cosines(found, truth).mean()))
        return min(means)

    return measure


def latency_of(run: runners.RunEncoder, item: NDArray[Any]) -> Latency:
    """Time one item, after a warm-up."""
    run(item)
    seconds = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        run(item)
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return Latency(float(p50), float(p99))


def _batches(items: NDArray[Any]) -> list[NDArray[Any]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
