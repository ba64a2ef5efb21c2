"""What changes vectors changes the fingerprint, and nothing else does."""

from pathlib import Path

import pytest

from export.source.checkpoint import Checkpoint, load_checkpoint
from export.source.fingerprint import fingerprint
from gateway.models.manifest import Tokenizer
from tests.export import models

SPEC = Tokenizer(
    file="tokenizer.json",
    sha256="0" * 64,
    context_length=24,
    pad_id=0,
    clean="lower",
)


@pytest.fixture
def tiny(tmp_path: Path) -> Checkpoint:
    return load_checkpoint(str(models.write_config(tmp_path, "tiny-vit", models.vit())))


def named(checkpoint: Checkpoint, precision: str = "fp32") -> str:
    return fingerprint(checkpoint.model, checkpoint.preprocessing, SPEC, precision)


def test_the_same_model_twice(tiny: Checkpoint, tmp_path: Path) -> None:
    again = load_checkpoint(str(models.write_config(tmp_path, "other-name", models.vit())))
    assert named(again) == named(tiny)


def test_the_activation_counts(tiny: Checkpoint, tmp_path: Path) -> None:
    """The same weights with QuickGELU give other vectors, as with OpenAI's checkpoints."""
    quick = load_checkpoint(str(models.write_config(tmp_path, "tiny-quick", models.quickgelu())))
    assert quick.model.state_dict().keys() == tiny.model.state_dict().keys()
    assert named(quick) != named(tiny)


def test_heads_and_epsilons_count(tiny: Checkpoint) -> None:
    before = named(tiny)
    tiny.model.transformer.resblocks[0].attn.num_heads = 4
    heads = named(tiny)
    tiny.model.ln_final.eps = 1e-6
    assert len({before, heads, named(tiny)}) == 3


def test_weights_and_precision_count_but_not_the_logit_scale(tiny: Checkpoint) -> None:
    before = named(tiny)
    assert named(tiny, "fp16") != before
    tiny.model.logit_scale.fill_(1.0)
    tiny.model.train()
    assert named(tiny) == before
    tiny.model.text_projection[0, 0] += 1e-3
    assert named(tiny) != before
