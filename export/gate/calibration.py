"""Pictures and texts to calibrate INT8 with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.demo.captions import write_caption
from export.demo.scenes import draw_scenes
from export.errors import ExportError, brief
from export.gate.evaluation import SUFFIXES
from export.gate.samples import png, read_picture

SEED = 30_001  # unlike the seeds of training and evaluation
COUNT = 256  # scenes; more hardly change the ranges
FEW = 32  # pictures, or captions; with fewer, single ones determine the ranges
LARGEST = 512  # maximum of a user's pictures, and texts; taken evenly


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Encoded image files and texts to calibrate with; either may be empty."""

    pictures: tuple[bytes, ...]
    texts: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """Warning about a small set, or None."""
        if min(len(self.pictures), len(self.texts)) >= FEW:
            return None
        return (
            f"INT8 takes its ranges from few samples (pictures: {len(self.pictures)}, captions: "
            f"{len(self.texts)}); give {FEW} or more of each"
        )


def drawn(seed: int = SEED, count: int = COUNT, size: int = 64) -> CalibrationSet:
    """Draw the demo's scenes, each with a caption as in training.

    Args:
        seed: Seed of scenes and captions.
        count: Number of scenes, cycled evenly over colours and shapes.
        size: Side of the pictures in pixels.
    """
    scenes = draw_scenes(count, seed, size)
    captions = tuple(
        write_caption(np.random.default_rng([seed, index, 1]), scene)
        for index, scene in enumerate(scenes)
    )
    return CalibrationSet(tuple(png(scene.image) for scene in scenes), captions)


def from_files(images: Path | None, texts: Path | None) -> CalibrationSet:
    """Read the user's own pictures and captions; None leaves them empty.

    Args:
        images: A folder, searched recursively.
        texts: A file with a caption on each line; only the part after a tab counts.

    Raises:
        ExportError: The folder has no pictures, a picture cannot be read, or the file has no
            captions or is not UTF-8 text.
    """
    return CalibrationSet(
        tuple(map(read_picture, _find_pictures(images))) if images else (),
        _read_captions(texts) if texts else (),
    )


def _find_pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ExportError(f"--calibrate-images {folder}: no such folder")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise ExportError(
            f"--calibrate-images {folder}: holds no pictures ({', '.join(sorted(SUFFIXES))})"
        )
    return [found[index] for index in _spread(len(found))]


def _read_captions(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"--calibrate-texts {path}: cannot be read as UTF-8 text: {brief(error)}"
        ) from error
    captions = [caption for line in lines if (caption := line.split("\t", 1)[-1].strip())]
    if not captions:
        raise ExportError(f"--calibrate-texts {path}: holds no captions; write one on each line")
    return tuple(captions[index] for index in _spread(len(captions)))


def _spread(count: int) -> list[int]:
    """At most `LARGEST` indices below `count`, evenly spaced."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, LARGEST)).round()]
