"""Pictures and texts to calibrate INT8 and FP8 with."""

from pathlib import Path

import numpy as np

from export.demo.captions import write_caption
from export.demo.scenes import draw_scenes
from export.gate.evaluation import EvaluationSet, caption_lines, picture_files
from export.gate.metrics import spread
from export.gate.samples import png, read_picture

SEED = 30_001  # unlike the seeds of training and evaluation
COUNT = 256  # scenes; more hardly change the ranges
FEW = 32  # pictures, or captions; with fewer, single ones determine the ranges
LARGEST = 512  # maximum of a user's pictures, and texts; taken evenly


def warning(samples: EvaluationSet) -> str | None:
    """Warning about a small set, or None."""
    if min(len(samples.pictures), len(samples.texts)) >= FEW:
        return None
    return (
        f"the ranges of activations come from few samples (pictures: {len(samples.pictures)}, "
        f"captions: {len(samples.texts)}); give {FEW} or more of each"
    )


def drawn(count: int = COUNT) -> EvaluationSet:
    """Draw scenes of the demo, evenly of all colours and shapes, with captions as in training."""
    scenes = draw_scenes(count, SEED)
    captions = tuple(
        write_caption(np.random.default_rng([SEED, index, 1]), scene)
        for index, scene in enumerate(scenes)
    )
    return EvaluationSet(tuple(png(scene.image) for scene in scenes), captions)


def from_files(images: Path, texts: Path) -> EvaluationSet:
    """Read the user's own pictures and captions.

    Args:
        images: A folder, searched recursively.
        texts: A file with a caption on each line; only the part after a tab counts.

    Raises:
        ExportError: The folder has no pictures, a picture cannot be read, or the file has no
            captions or is not UTF-8 text.
    """
    captions = [line.split("\t", 1)[-1].strip() for line in caption_lines(texts)]
    files = picture_files(images, "**/*")
    return EvaluationSet(
        tuple(read_picture(files[at]) for at in spread(len(files), LARGEST)),
        tuple(captions[at] for at in spread(len(captions), LARGEST)),
    )
