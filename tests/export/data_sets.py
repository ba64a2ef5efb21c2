"""Data sets in CLIP_benchmark's layout, of drawn scenes."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from export.demo.scenes import LABELS, Scene, draw_scenes
from export.gate.samples import png

TEMPLATES = ("a {c}", "a photo of the {c}.", "this is a picture of {c}")
SCENES = 96

Files = Mapping[str, bytes]


def tar(path: Path, files: Files) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


def write(root: Path, shards: Sequence[Files], split: str = "test", **lists: str) -> Path:
    for number, files in enumerate(shards):
        tar(root / split / f"{number}.tar", files)
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / split / "nshards.txt").write_text(f"{len(shards)}\n")
    for name, content in lists.items():
        (root / f"{name}.txt").write_text(content)
    return root


def lines(*given: str) -> str:
    return "".join(f"{line}\n" for line in given)


def noisy(number: int, scene: Scene) -> bytes:
    """With noise that has the demo model fail on some."""
    pixels = np.asarray(scene.image, dtype=np.float32)
    noise = np.random.default_rng(number).normal(0, 20, pixels.shape)
    return png(Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)))


def write_scenes(root: Path) -> Path:
    """Write drawn scenes with their classes, of uneven size, in two shards."""
    files = {}
    for number, scene in enumerate(draw_scenes(SCENES, seed=77)):
        # Every other class has some pictures fewer.
        if number < len(LABELS) or LABELS.index(scene.label) % 2:
            files[f"s{number:07}.png"] = noisy(number, scene)
            files[f"s{number:07}.cls"] = str(LABELS.index(scene.label)).encode()
    names = sorted(files)
    shards = [{name: files[name] for name in part} for part in (names[:100], names[100:])]
    lists = {"classnames": lines(*LABELS), "zeroshot_classification_templates": lines(*TEMPLATES)}
    return write(root, shards, **lists)


def write_captions(root: Path) -> Path:
    """Write drawn scenes with one to three captions; no two scenes have the same."""
    files: dict[str, bytes] = {}
    known: set[str] = set()
    for number, scene in enumerate(draw_scenes(SCENES, seed=78)):
        caption = f"a {scene.label} on a {scene.background} background"
        if caption not in known:
            known.add(caption)
            more = [f"look, {caption}", f"we can see {caption} here"][: number % 3]
            files[f"s{number:07}.png"] = noisy(number, scene)
            files[f"s{number:07}.txt"] = lines(caption, *more).encode()
    return write(root, [files], dataset_type="retrieval\n")
