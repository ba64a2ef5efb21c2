"""The captions: templates for training and for measuring are apart, and say what is drawn."""

import numpy as np

from export.demo.captions import (
    BACKGROUND_TEMPLATES,
    TRAIN_TEMPLATES,
    write_caption,
)
from export.demo.scenes import draw_scene
from tests.demo.accuracy import HELD_OUT_TEMPLATES


def test_held_out_templates_are_not_trained_on() -> None:
    trained = {template.strip(" .!").lower() for template in TRAIN_TEMPLATES}
    held_out = {template.strip(" .!").lower() for template in HELD_OUT_TEMPLATES}
    assert len(held_out) == len(HELD_OUT_TEMPLATES) >= 7
    assert not trained & held_out


def test_plain_templates_are_trained_on() -> None:
    expected = {"{}", "a {}", "a photo of a {}.", "a drawing of a {}", "this is a photo of {}"}
    assert expected <= set(TRAIN_TEMPLATES)


def test_every_template_has_one_place_for_the_label() -> None:
    templates = (*TRAIN_TEMPLATES, *HELD_OUT_TEMPLATES, *BACKGROUND_TEMPLATES)
    assert {template.count("{}") for template in templates} == {1}
    assert {template.count("{background}") for template in BACKGROUND_TEMPLATES} == {1}


def test_captions_name_the_scene_and_vary() -> None:
    scene = draw_scene(np.random.default_rng(0), "red", "circle", "striped")
    captions = [write_caption(np.random.default_rng(seed), scene) for seed in range(200)]
    assert all("red circle" in caption for caption in captions)
    assert len(set(captions)) > 80
    assert any("striped" in caption for caption in captions)
    assert captions[7] == write_caption(np.random.default_rng(7), scene)
