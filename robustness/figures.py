"""Vectors -> figures: cosines, top labels kept, accuracy, and a line through them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from openclip_triton.values import Vectors

from benchmarks.reporting.results import Row

GREY, PIXELS, DRIFT, TEXT, ADVERSARIAL = "grey", "pixels", "drift", "text", "adversarial"
PARTS = (GREY, PIXELS, DRIFT, TEXT, ADVERSARIAL)
FIT = "linear fit"


def figures(
    before: Vectors, after: Vectors, targets: Vectors, labels: NDArray[np.intp] | None = None
) -> dict[str, float]:
    """The figures of one change at one strength.

    Args:
        before: float32 [n, D], unit vectors.
        after: float32 [n, D], the vectors of the same items after the change.
        targets: float32 [labels, D], among which the nearest is the top label.
        labels: int [n], the right label; None if unknown.
    """
    low, median, high = np.percentile((before * after).sum(axis=1), (5, 50, 95))
    top = (after @ targets.T).argmax(axis=1)
    kept = (top == (before @ targets.T).argmax(axis=1)).mean()
    values = {"cosine": median, "cosine_p5": low, "cosine_p95": high, "top_1_kept": kept}
    if labels is not None:
        values["accuracy"] = (top == labels).mean()
    return {name: float(value) for name, value in values.items()}


def fit(rows: Sequence[Row]) -> Row:
    """A line through the median cosines of one model and change, over strengths in percent."""
    x = np.array([float(row.labels["strength"]) / 100 for row in rows])
    y = np.array([row.values["cosine"] for row in rows])
    slope, start = np.polyfit(x, y, 1)
    missed = ((y - start - slope * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    values = {"at_0": float(start), "slope": float(slope), "r2": float(1 - missed)}
    return Row({**rows[0].labels, "part": FIT}, values)
