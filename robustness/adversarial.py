"""Searches for the fewest pixels of a picture that change its top label, using only the API."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from openclip_triton.values import Vectors
from scipy.optimize import OptimizeResult, differential_evolution

from robustness.service import Pixels

COUNTS = (1, 2, 4, 8, 16)  # numbers of pixels to try, in this order
POPULATION = 50
PARAMETERS = 5  # of a pixel: row, column, red, green, blue

Embed = Callable[[list[Pixels]], Vectors]


@dataclass(frozen=True, slots=True)
class Attack:
    """The result of a search: the picture, unchanged if nothing was found."""

    pixels: Pixels
    label: int  # index of its top label
    tried: int  # most pixels at a time; 0: the budget allows no search
    calls: int  # number of pictures that were embedded


def attack(
    pixels: Pixels, label: int, targets: Vectors, embed: Embed, budget: int, seed: int
) -> Attack:
    """Search with one pixel, then with more, until the top label changes or the budget is spent.

    Differential evolution lowers the lead of the label's cosine over the next best. Each number of
    pixels gets an equal part of the budget.

    Args:
        pixels: The picture, uint8 [S, S, 3].
        label: Index in `targets` of its top label.
        targets: float32 [labels, D], unit vectors.
        embed: Encodes pictures to float32 [n, D].
        budget: Number of pictures to embed at most; each search takes two populations or more.
        seed: Of the search.
    """
    side, calls, tried = len(pixels), 0, 0
    points = np.empty((0, PARAMETERS), np.intp)

    def lead(candidates: NDArray[np.float64]) -> NDArray[np.float64]:
        """The label's lead over the next best: float64 [n], for candidates [5 k, n]."""
        nonlocal calls
        calls += candidates.shape[1]
        scores = embed([_painted(pixels, _points(each)) for each in candidates.T]) @ targets.T
        others = np.delete(scores, label, axis=1).max(axis=1)
        return np.asarray(scores[:, label] - others, np.float64)

    rounds = (budget - COUNTS[-1]) // len(COUNTS) // POPULATION
    for tried in [count for count in COUNTS if count <= side * side and rounds > 1]:
        rng = np.random.default_rng([seed, tried])
        high = np.nextafter(np.tile([side, side, 256.0, 256.0, 256.0], tried), 0)
        found = differential_evolution(
            lead, [(0, each) for each in high], maxiter=rounds - 1, rng=rng, tol=0, polish=False,
            init=rng.uniform(0, high, (POPULATION, len(high))), vectorized=True,
            updating="deferred", callback=_changes,
        )  # fmt: skip
        if _changes(found):
            points = _points(found.x)
            break
    for i in reversed(range(len(points))):
        fewer = np.delete(points, i, axis=0)
        if len(fewer) and lead(fewer.reshape(-1, 1).astype(np.float64))[0] < 0:
            points = fewer
    painted = _painted(pixels, points)
    top = int((embed([painted]) @ targets.T).argmax())
    return Attack(painted, top, tried, calls + 1)


def _changes(intermediate_result: OptimizeResult) -> bool:
    return bool(intermediate_result.fun < 0)


def _points(parameters: NDArray[np.float64]) -> NDArray[np.intp]:
    """Row, column, red, green and blue of each pixel: int [k, 5]."""
    return parameters.reshape(-1, PARAMETERS).astype(np.intp)


def _painted(pixels: Pixels, points: NDArray[np.intp]) -> Pixels:
    painted = pixels.copy()
    painted[points[:, 0], points[:, 1]] = points[:, 2:]
    return painted


def changed(before: Pixels, after: Pixels) -> NDArray[np.intp]:
    """Row and column of each pixel that differs: int [k, 2]."""
    return np.argwhere((before != after).any(axis=2))
