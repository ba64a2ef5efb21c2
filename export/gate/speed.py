"""Compares the speed of a variant with FP32 in ONNX Runtime on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.gate.runners import RunEncoder
from gateway.models.gate import Speed

BATCHES = (1, 8)
ROUNDS = 15  # of each batch size; the median counts


@dataclass(frozen=True, slots=True)
class Pair:
    """The image and the text encoder of a variant."""

    image: RunEncoder
    text: RunEncoder


def compare(
    fp32: Pair,
    variant: Pair,
    pixels: NDArray[Any],
    token_ids: NDArray[Any],
    max_batch: int,
    timer: Callable[[], float] = time.perf_counter,
) -> tuple[Speed, ...]:
    """Time both in turns, so that a machine that slows down slows both.

    Args:
        fp32: FP32 in ONNX Runtime.
        variant: The variant.
        pixels: uint8 [n, S, S, 3], repeated as needed.
        token_ids: int32 [n, length], likewise.
        max_batch: Largest served batch.
        timer: A clock, in seconds.

    Returns:
        The medians at each batch size.
    """
    found = []
    for batch in dict.fromkeys(min(size, max_batch) for size in BATCHES):
        calls = [
            (run, np.resize(items, (batch, *items.shape[1:])))
            for image, text in ((fp32.image, fp32.text), (variant.image, variant.text))
            for run, items in ((image, pixels), (text, token_ids))
        ]
        for run, items in calls:  # the first call prepares for the shape
            run(items)
        times = np.array(
            [[_time(run, items, timer) for run, items in calls] for _ in range(ROUNDS)]
        )
        full, ours = times[:, :2], times[:, 2:]
        ratios = np.column_stack((full / ours, full.sum(axis=1) / ours.sum(axis=1)))
        found.append(Speed(batch, *(float(each) for each in np.median(ratios, axis=0))))
    return tuple(found)


def failures(speeds: Sequence[Speed]) -> list[str]:
    """Describe each batch size at which the variant is not faster than FP32."""
    return [
        f"it is only {speed.describe()} on this machine, so FP32 would serve better; "
        "--allow-slow publishes it"
        for speed in speeds
        if speed.both <= 1
    ]


def _time(run: RunEncoder, items: NDArray[Any], timer: Callable[[], float]) -> float:
    start = timer()
    run(items)
    return timer() - start
