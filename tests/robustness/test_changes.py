"""What is done to pixels and texts is what its name and strength say, and the same every time."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from robustness import adversarial, texts
from robustness.adversarial import attack
from robustness.adversarial import changed as changed_places
from robustness.figures import figures
from robustness.perturbations import GREY, GREYS, NOISES, Perturbation
from robustness.service import Pixels

SIDE = 64
PIXELS = np.random.default_rng(3).integers(0, 100, (SIDE, SIDE, 3)).astype(np.uint8)
EVERY = {each.name: each for each in (*GREYS, *NOISES)}


def changed(change: Perturbation, strength: float, seed: int = 0) -> Image.Image:
    [data] = change.files([PIXELS], strength, seed)
    return Image.open(BytesIO(data))


@pytest.mark.parametrize("change", GREYS, ids=lambda each: each.name)
def test_a_share_of_grey_is_exact_and_grows(change: Perturbation) -> None:
    before = np.zeros((SIDE, SIDE), bool)
    for percent in change.strengths:
        grey = (np.asarray(changed(change, percent)) == GREY).all(axis=2)
        assert grey.mean() == pytest.approx(percent / 100, abs=0.01)
        assert not (before & ~grey).any()
        before = grey
    assert before.all()


@pytest.mark.parametrize("name", EVERY)
def test_every_change_is_repeated_by_its_seed_and_grows(name: str) -> None:
    change = EVERY[name]
    for strength in (change.strengths[0], change.strengths[-1]):
        one, again = changed(change, strength), changed(change, strength)
        assert one.tobytes() == again.tobytes()
        assert one.mode == "RGB"
    if "noise" in name or name in ("blur", "JPEG", "speckle", "salt and pepper"):
        ends = (changed(change, change.strengths[i]) for i in (0, -1))
        weak, strong = (np.abs(np.asarray(end, float) - PIXELS).mean() for end in ends)
        assert 0 < weak < strong


def test_turned_pictures_are_upright_by_their_tag() -> None:
    for orientation in EVERY["EXIF tag alone"].strengths:
        turned = changed(EVERY["EXIF tag on turned pixels"], orientation)
        assert not np.array_equal(np.asarray(turned), PIXELS)
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(turned)), PIXELS)
        assert np.array_equal(np.asarray(changed(EVERY["EXIF tag alone"], orientation)), PIXELS)


def test_texts_are_cut_to_words_and_misspelt_in_a_share_of_them() -> None:
    captions = ["one small step for a man", "another giant leap"]
    made = {(each.name, each.strength): each for each in texts.changes(captions, seed=1)}
    cut = made["cut", "10"]
    assert [len(text.split()) for text in cut.before] == [75, 75]
    assert cut.after[1] == "another giant leap and one small step for"
    assert made["cut", "77"].after == cut.before
    wrong = made["typos", "50"].after[0].split()
    differ = [one != other for one, other in zip(wrong, captions[0].split(), strict=True)]
    assert sum(differ) == 3  # of five that have two letters
    assert list(map(sorted, wrong)) == list(map(sorted, captions[0].split()))
    again = [each.after for each in texts.changes(captions, seed=1)]
    assert again == [each.after for each in made.values()]
    assert made["filler appended", "5"].after[1] == "another giant leap and so on and so"


def test_figures_count_what_is_kept_and_right() -> None:
    targets = np.eye(3, dtype=np.float32)
    before, after = targets, targets[[0, 0, 2]]
    values = figures(before, after, targets, np.array([0, 0, 1]))
    assert values["top_1_kept"] == values["accuracy"] == pytest.approx(2 / 3)
    assert (values["cosine"], values["cosine_p95"]) == (1, 1)
    assert values["cosine_p5"] == pytest.approx(0.1)


def red(pixels: list[Pixels]) -> np.ndarray:
    """Nearer to the second of two labels where a pixel is red."""
    values = np.stack(pixels).astype(float) @ (1, -1, -1)
    seen = np.stack([np.full(len(pixels), 150.0), values.max(axis=(1, 2)).clip(0)], axis=1)
    return np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True), np.float32)


def test_one_pixel_is_found_where_one_will_do() -> None:
    labels = np.eye(2, dtype=np.float32)
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    end = attack(black, 0, labels, red, budget=3000, seed=0)
    assert (end.label, end.tried) == (1, 1)
    assert changed_places(black, end.pixels).shape == (1, 2)
    assert (
        attack(black, 0, labels, red, budget=3000, seed=0).pixels.tobytes() == end.pixels.tobytes()
    )


def test_a_label_that_nothing_changes_is_kept_within_the_budget() -> None:
    labels = np.eye(2, dtype=np.float32)
    calls = []

    def embed(pixels: list[Pixels]) -> np.ndarray:
        calls.append(len(pixels))
        return np.tile(labels[0], (len(pixels), 1))

    for budget, tried in ((800, adversarial.COUNTS[-1]), (60, 0)):
        calls.clear()
        end = attack(PIXELS, 0, labels, embed, budget, seed=0)
        assert (end.label, end.tried) == (0, tried)
        assert end.calls == sum(calls) <= budget
        assert np.array_equal(end.pixels, PIXELS)
