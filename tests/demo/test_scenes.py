"""The scenes: determined by a seed, varied, whole, and alike at every size."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.demo.__main__ import main
from export.demo.scenes import BACKGROUNDS, COLOURS, LABELS, PAIRS, SHAPES, draw_scene, draw_scenes


def _pixels(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, np.float32)


def test_vocabulary_is_large_enough_and_distinct() -> None:
    assert len(COLOURS) >= 8
    assert len(SHAPES) >= 6
    assert len(BACKGROUNDS) >= 4
    assert len(set(LABELS)) == len(PAIRS) == len(COLOURS) * len(SHAPES)


def test_same_seed_gives_same_scenes_whatever_the_count() -> None:
    few, many = draw_scenes(5, seed=3), draw_scenes(50, seed=3)
    for one, other in zip(few, many, strict=False):
        assert one.label == other.label
        assert one.background == other.background
        assert np.array_equal(_pixels(one.image), _pixels(other.image))


def test_other_seed_gives_other_scenes() -> None:
    one, other = draw_scenes(48, seed=3), draw_scenes(48, seed=4)
    same = [
        np.array_equal(_pixels(a.image), _pixels(b.image)) for a, b in zip(one, other, strict=True)
    ]
    assert not any(same)


def test_scenes_cycle_evenly_over_all_pairs_and_use_all_backgrounds() -> None:
    scenes = draw_scenes(2 * len(PAIRS), seed=5, size=16)
    assert [scene.label for scene in scenes] == [*LABELS, *LABELS]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


def test_scenes_of_one_label_differ() -> None:
    images = [
        _pixels(draw_scene(np.random.default_rng(i), "red", "circle", "plain").image)
        for i in range(12)
    ]
    means = {tuple(image.mean(axis=(0, 1)).round(1)) for image in images}
    centres = {tuple(np.argwhere(_redness(image) > 0.3).mean(axis=0).round()) for image in images}
    areas = {int((_redness(image) > 0.3).sum()) for image in images}
    assert min(len(means), len(centres), len(areas)) >= 10


def _redness(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    redness: NDArray[np.float32] = (pixels[..., 0] - pixels[..., 1:].max(axis=-1)) / 255
    return redness


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_is_wholly_inside_and_large_enough(shape: str) -> None:
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed), "red", shape)
        red = _redness(_pixels(scene.image)) > 0.3
        edge = np.concatenate([red[0], red[-1], red[:, 0], red[:, -1]])
        assert not edge.any()
        assert red.any(axis=0).sum() >= 0.25 * 64 or red.any(axis=1).sum() >= 0.25 * 64


@pytest.mark.parametrize("size", [96, 256, 320])
def test_scene_looks_the_same_at_every_size(size: int) -> None:
    for seed in range(6):
        small = draw_scene(np.random.default_rng(seed), size=64)
        large = draw_scene(np.random.default_rng(seed), size=size)
        resized = large.image.resize((64, 64), Image.Resampling.BICUBIC)
        assert large.image.size == (size, size)
        assert (small.label, small.background) == (large.label, large.background)
        assert np.abs(_pixels(small.image) - _pixels(resized)).mean() < 6


def test_chosen_words_are_drawn() -> None:
    scene = draw_scene(np.random.default_rng(0), "blue", "star", "dotted")
    assert (scene.colour, scene.shape, scene.background) == ("blue", "star", "dotted")
    assert scene.label == "blue star"
    assert scene.image.mode == "RGB"


@pytest.mark.parametrize(
    "words", [("mauve", None, None), (None, "blob", None), (None, None, "tiled")]
)
def test_unknown_words_are_refused(words: tuple[str | None, str | None, str | None]) -> None:
    with pytest.raises(KeyError):
        draw_scene(np.random.default_rng(0), *words)


def test_scenes_and_captions_are_written(tmp_path: Path) -> None:
    folder, captions = tmp_path / "scenes", tmp_path / "scenes.txt"
    words = ["--count", "12", "--seed", "3", "--out", str(folder), "--captions", str(captions)]
    main(["scenes", *words])
    paths, lines = sorted(folder.iterdir()), captions.read_text().splitlines()
    scenes = draw_scenes(12, seed=3)
    for path, line, scene in zip(paths, lines, scenes, strict=True):
        assert scene.label in line
        with Image.open(path) as written:
            assert np.array_equal(_pixels(written), _pixels(scene.image))
