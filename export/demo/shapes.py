"""Outlines of the shapes that the demo draws, as polygons around the origin."""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # [N, 2], x to the right and y down, within the unit circle


def _regular(corners: int) -> Points:
    angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Points:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    points = np.stack([x, -y], axis=1)
    return np.asarray(points / np.hypot(points[:, 0], points[:, 1]).max())


def _cross() -> Points:
    a, b = 0.3, 0.95
    quarter = np.array([[-a, -b], [a, -b], [a, -a]])
    turn = np.array([[0, 1], [-1, 0]])  # a quarter turn, for points written as rows
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


OUTLINES: dict[str, Points] = {
    "circle": _regular(128),
    "square": np.sqrt(0.5) * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]),
    "triangle": _regular(3),
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}


def outline(shape: str, extent: float, angle: float) -> Points:
    """Return a shape's corners, turned and scaled, with its bounding box at the origin.

    Args:
        shape: A key of ``OUTLINES``.
        extent: Longer side of the bounding box after turning, in any unit.
        angle: Clockwise turn in radians.

    Returns:
        float64 ``[N, 2]`` points (x, y); the smallest x and the smallest y are 0.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    points = OUTLINES[shape] @ np.array([[cos, sin], [-sin, cos]])
    points -= points.min(axis=0)
    return np.asarray(points * (extent / points.max()))
