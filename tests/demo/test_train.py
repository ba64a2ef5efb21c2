"""Training: it learns, the same seed gives the same weights, and the command line works."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.demo.__main__ import main
from export.demo.batches import make_batch
from export.demo.model import create_demo
from export.demo.scenes import PAIRS
from export.demo.train import Progress, Recipe, save_checkpoint, train

pytestmark = pytest.mark.slow

Run = tuple[dict[str, torch.Tensor], list[Progress]]

SHORT = Recipe(seed=7, steps=12, warmup=4)


def _train(recipe: Recipe) -> Run:
    seen: list[Progress] = []
    return train(recipe, seen.append).clip.state_dict(), seen


@pytest.fixture(scope="module")
def run() -> Run:
    return _train(SHORT)


def test_loss_falls(run: Run) -> None:
    seen = run[1]
    assert [progress.step for progress in seen] == list(range(1, 13))
    assert sum(p.loss for p in seen[-3:]) < sum(p.loss for p in seen[:3])


def test_same_seed_gives_same_weights(
    run: Run,
) -> None:
    again = _train(SHORT)[0]
    assert all(torch.equal(value, again[name]) for name, value in run[0].items())


def test_other_seed_gives_other_weights(
    run: Run,
) -> None:
    other = _train(Recipe(seed=8, steps=1))[0]
    assert not torch.equal(
        run[0]["visual.attnpool.c_proj.weight"], other["visual.attnpool.c_proj.weight"]
    )


def test_only_known_words_are_trained(
    run: Run,
) -> None:
    trained = run[0]["token_embedding.weight"].any(dim=1)
    assert 50 < trained.sum() < 400


def test_batch_holds_every_pair_once_as_served() -> None:
    model = create_demo(checkpoint=None)
    batch = make_batch(np.random.default_rng(0), model)
    assert batch.pixels.shape == (len(PAIRS), 3, 64, 64)
    assert batch.tokens.shape == (len(PAIRS), 32)


def test_command_line_trains_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.safetensors"
    main(["train", "--steps", "2", "--out", str(out)])
    assert "step     2/2" in capsys.readouterr().out
    main(["samples", "--out", str(tmp_path / "samples")])
    assert (tmp_path / "samples" / "red-circle.png").is_file()


def test_saving_rounds_to_fp16(tmp_path: Path) -> None:
    model = create_demo(checkpoint=None)
    save_checkpoint(model, tmp_path / "demo.safetensors")
    loaded = create_demo(tmp_path / "demo.safetensors").clip.state_dict()
    for name, value in model.clip.state_dict().items():
        assert torch.equal(loaded[name], value.half().float()), name
