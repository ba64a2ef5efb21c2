"""Draws scenes of one coloured shape on a grey background, fully determined by a seed.

Every random choice is made in fractions of the picture's side, so that one seed gives the same
scene at any pixel size.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from export.demo.shapes import OUTLINES, outline

Plane = NDArray[np.float32]  # [size, size], or [size, size, 3] for colour; 0 to 1

# Ranges of hue (degrees), saturation and value within which a person still uses the name.
COLOURS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-5, 4), (0.88, 1.0), (0.75, 0.95)),
    "orange": ((25, 33), (0.92, 1.0), (0.95, 1.0)),
    "yellow": ((53, 58), (0.85, 1.0), (0.93, 1.0)),
    "green": ((115, 145), (0.7, 1.0), (0.5, 0.75)),
    "blue": ((213, 232), (0.78, 1.0), (0.7, 0.95)),
    "purple": ((273, 288), (0.7, 0.95), (0.5, 0.7)),
    "pink": ((328, 344), (0.38, 0.52), (0.97, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.02, 0.1)),
}
SHAPES: tuple[str, ...] = tuple(OUTLINES)
BACKGROUNDS: tuple[str, ...] = ("plain", "striped", "checkered", "dotted")
PAIRS: tuple[tuple[str, str], ...] = tuple((c, s) for c in COLOURS for s in SHAPES)
LABELS: tuple[str, ...] = tuple(f"{colour} {shape}" for colour, shape in PAIRS)

EXTENTS = (0.38, 0.78)  # of the picture's side
GRAIN = 64  # cells of noise along a side
MAX_TURN = np.pi / 6  # a square turned further would be called a diamond
MIN_CONTRAST = 0.36  # Euclidean distance in RGB between the shape and every background tone


@dataclass(frozen=True, slots=True)
class Scene:
    """One drawn scene and the words for it."""

    colour: str  # key of COLOURS
    shape: str  # one of SHAPES
    background: str  # one of BACKGROUNDS
    image: Image.Image  # RGB, square

    @property
    def label(self) -> str:
        """Colour and shape, such as ``red circle``: one of ``LABELS``."""
        return f"{self.colour} {self.shape}"


def _paint(rng: np.random.Generator, colour: str) -> Plane:
    hue, saturation, value = (rng.uniform(low, high) for low, high in COLOURS[colour])
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32)


def _tones(rng: np.random.Generator, paint: Plane) -> Plane:
    """Two light or dark greys, float32 ``[2, 3]``, both far enough from the paint."""
    while True:
        value, tint = rng.uniform(0.25, 0.92), rng.uniform(0, 0.1)
        step = rng.uniform(0.1, 0.18) * (-1 if value > 0.6 else 1)
        hue = rng.uniform()
        tones = [colorsys.hsv_to_rgb(hue, tint, v) for v in (value, value + step)]
        pair = np.array(tones, np.float32)
        if np.linalg.norm(pair - paint, axis=1).min() >= MIN_CONTRAST:
            return pair


def _pattern(rng: np.random.Generator, background: str, x: Plane, y: Plane) -> Plane:
    """Share of the second tone in each pixel; soft edges keep it similar at every size."""
    turn, frequency = rng.uniform(0, np.pi), 2 * np.pi * rng.uniform(3.5, 6.5)
    phase = rng.uniform(0, 2 * np.pi, size=2)
    u = np.sin(frequency * (x * np.cos(turn) + y * np.sin(turn)) + phase[0])
    v = np.sin(frequency * (y * np.cos(turn) - x * np.sin(turn)) + phase[1])
    waves = {
        "plain": np.full_like(x, -1),
        "striped": u,
        "checkered": 2 * u * v,
        "dotted": u + v - 0.7,
    }
    return np.asarray(np.clip(0.5 + 2 * waves[background], 0, 1), np.float32)


def _mask(rng: np.random.Generator, shape: str, size: int) -> Image.Image:
    """The shape's coverage, mode L, wholly inside the picture."""
    extent, margin, fine = rng.uniform(*EXTENTS), 0.03, 4 * size
    points = outline(shape, extent, rng.uniform(-MAX_TURN, MAX_TURN))
    room = 1 - 2 * margin - points.max(axis=0)
    points = (points + margin + rng.uniform(size=2) * room) * fine
    canvas = Image.new("L", (fine, fine))
    ImageDraw.Draw(canvas).polygon([(float(px), float(py)) for px, py in points], fill=255)
    return canvas.reduce(4)


def _light(rng: np.random.Generator, x: Plane, y: Plane, strength: float) -> Plane:
    """Brightness factors ``[size, size, 1]`` of light from one side."""
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, strength)
    fall = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    return np.asarray(rng.uniform(0.92, 1.05) + slope * fall, np.float32)[..., None]


def _grain(rng: np.random.Generator, size: int, strongest: float) -> Plane:
    noise = rng.normal(0, rng.uniform(0, strongest), (GRAIN, GRAIN)).astype(np.float32)
    return np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BILINEAR))


def draw_scene(
    rng: np.random.Generator,
    colour: str | None = None,
    shape: str | None = None,
    background: str | None = None,
    size: int = 64,
    grain: float = 0.03,
) -> Scene:
    """Draw one scene; ``rng`` chooses what is not given.

    Args:
        rng: Source of every choice; the same state gives the same scene at any ``size``.
        colour: A key of ``COLOURS``.
        shape: One of ``SHAPES``.
        background: One of ``BACKGROUNDS``.
        size: Side of the square picture in pixels.
        grain: Strongest noise, as a standard deviation where white is 1.

    Raises:
        KeyError: if a colour, shape or background is not one of those drawn.
    """
    chosen = rng.integers((len(COLOURS), len(SHAPES), len(BACKGROUNDS)))
    colour = colour or list(COLOURS)[chosen[0]]
    shape = shape or SHAPES[chosen[1]]
    background = background or BACKGROUNDS[chosen[2]]
    centres: Plane = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x: Plane = np.tile(centres, (size, 1))
    y: Plane = np.tile(centres[:, None], (1, size))
    paint = _paint(rng, colour)
    tones = _tones(rng, paint)
    pattern = _pattern(rng, background, x, y)[..., None]
    mask = _mask(rng, shape, size)
    shadow = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.02, 0.06) * size))
    shade = 1 - rng.uniform(0, 0.3) * np.asarray(shadow, np.float32)[..., None] / 255
    ground = (tones[0] + pattern * (tones[1] - tones[0])) * _light(rng, x, y, 0.35) * shade
    body = paint * _light(rng, x, y, 0.25)
    cover = np.asarray(mask, np.float32)[..., None] / 255
    pixels = ground + cover * (body - ground)
    soft = rng.uniform(0, 0.008) * size
    noise = _grain(rng, size, grain)[..., None]
    image = Image.fromarray((np.clip(pixels + noise, 0, 1) * 255).round().astype(np.uint8))
    return Scene(colour, shape, background, image.filter(ImageFilter.GaussianBlur(soft)))


def draw_scenes(count: int, seed: int, size: int = 64) -> list[Scene]:
    """Draw scenes that cycle evenly over ``PAIRS``; scene i depends on ``seed`` and i only."""
    return [
        draw_scene(np.random.default_rng([seed, i]), *PAIRS[i % len(PAIRS)], size=size)
        for i in range(count)
    ]
