"""Draws the sample pictures of documentation, tests and playground, and scenes to measure on."""

from pathlib import Path
from typing import Any

import numpy as np

from export.demo.captions import write_caption
from export.demo.scenes import Scene, draw_scene, draw_scenes

SAMPLES: tuple[tuple[str, str, str], ...] = (
    ("red circle", "plain", "png"),
    ("blue star", "striped", "jpg"),
    ("green square", "checkered", "png"),
    ("yellow heart", "dotted", "jpg"),
    ("purple triangle", "plain", "jpg"),
    ("orange cross", "striped", "png"),
    ("pink heart", "checkered", "jpg"),
    ("black star", "dotted", "png"),
    ("red triangle", "striped", "jpg"),
    ("blue cross", "plain", "png"),
    ("yellow star", "checkered", "jpg"),
    ("green circle", "dotted", "jpg"),
)
SEED = 12
SIZE = 256  # pixels
OPTIONS: dict[str, dict[str, Any]] = {".png": {"optimize": True}, ".jpg": {"quality": 90}}


def sample_scenes() -> dict[str, Scene]:
    """Draw the samples, by file name (such as ``red-circle.png``); always the same ones."""
    scenes = {}
    for index, (label, background, suffix) in enumerate(SAMPLES):
        colour, shape = label.split()
        rng = np.random.default_rng([SEED, index])
        scene = draw_scene(rng, colour, shape, background, size=SIZE, grain=0)
        scenes[f"{colour}-{shape}.{suffix}"] = scene
    return scenes


def write_samples(folder: Path) -> list[Path]:
    """Write the samples, 256 x 256 pixels, into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, scene in sample_scenes().items():
        path = folder / name
        scene.image.save(path, **OPTIONS[path.suffix])
        paths.append(path)
    return paths


def write_scenes(folder: Path, captions: Path, count: int, seed: int) -> None:
    """Write scenes, 64 x 64 pixels, into a folder, and their captions to a file, one a line."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes, rng = draw_scenes(count, seed), np.random.default_rng(seed)
    for index, scene in enumerate(scenes):
        scene.image.save(folder / f"{index:05}.png")
    captions.write_text("".join(f"{write_caption(rng, scene)}\n" for scene in scenes))
