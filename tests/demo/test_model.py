"""The committed checkpoint: its accuracy, its form, and the samples it is shown with."""

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from export.demo.model import (
    CHECKPOINT,
    PLAIN_TEMPLATES,
    DemoModel,
    create_demo,
)
from export.demo.samples import sample_scenes, write_samples
from tests.demo.accuracy import HELD_OUT_TEMPLATES, accuracy, classify

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
FRESH_SEED = 20_261


@pytest.fixture(scope="module")
def demo() -> DemoModel:
    return create_demo()


def test_accuracy_on_fresh_scenes(demo: DemoModel) -> None:
    rates = accuracy(demo, FRESH_SEED, 480, (*PLAIN_TEMPLATES, *HELD_OUT_TEMPLATES))
    assert min(rates[template] for template in PLAIN_TEMPLATES) >= 0.97, rates
    assert min(rates[template] for template in HELD_OUT_TEMPLATES) >= 0.9, rates
    assert mean(rates[template] for template in HELD_OUT_TEMPLATES) >= 0.93, rates


@pytest.mark.parametrize("size", [96, 320])
def test_accuracy_on_larger_pictures(demo: DemoModel, size: int) -> None:
    rates = accuracy(demo, FRESH_SEED, 192, size=size)
    assert min(rates.values()) >= 0.97, rates


def test_random_weights_know_nothing() -> None:
    torch.manual_seed(0)
    rates = accuracy(create_demo(checkpoint=None), FRESH_SEED, 96)
    assert max(rates.values()) < 0.2


def test_checkpoint_is_small_and_fp16(demo: DemoModel) -> None:
    assert CHECKPOINT.stat().st_size <= 7_500_000
    stored = load_file(CHECKPOINT)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    for name, value in demo.clip.state_dict().items():
        assert torch.equal(value, stored[name].to(value.dtype)), name


def test_logit_scale_keeps_the_cap_of_clip(demo: DemoModel) -> None:
    assert 1 < demo.clip.logit_scale.exp().item() <= 100


def test_words_never_trained_say_nothing(demo: DemoModel) -> None:
    table = demo.clip.token_embedding.weight.detach()  # [49408, width]
    rows = table[demo.tokenizer(["zebra accordion"])[0, 1:3]]
    assert not rows.any()
    assert table[demo.tokenizer(["red circle"])[0, 1:3]].any(dim=1).all()


def test_samples_on_disk_are_what_is_drawn(tmp_path: Path) -> None:
    drawn = write_samples(tmp_path)
    assert sorted(path.name for path in drawn) == sorted(path.name for path in SAMPLES.iterdir())
    assert len(drawn) >= 12
    for path in drawn:
        kept = SAMPLES / path.name
        assert kept.stat().st_size <= 40 * 1024
        with Image.open(path) as fresh, Image.open(kept) as committed:
            assert committed.format == fresh.format
            assert committed.size == (256, 256)
            gap = np.asarray(fresh, np.float32) - np.asarray(committed, np.float32)
        assert np.abs(gap).mean() < 1, path.name  # libraries may round a pixel differently


@pytest.mark.parametrize("template", PLAIN_TEMPLATES)
def test_samples_are_classified_rightly(demo: DemoModel, template: str) -> None:
    names = list(sample_scenes())
    images = [Image.open(SAMPLES / name).convert("RGB") for name in names]
    labels = [Path(name).stem.replace("-", " ") for name in names]
    assert "red-circle.png" in names
    assert classify(demo, images, template) == labels
