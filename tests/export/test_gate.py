import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn

from export import gate
from export.errors import GateError
from export.towers import ImageTower, token_lengths
from gateway.manifest import Preprocessing


def rows(count: int) -> gate.Vectors:
    vectors = np.random.default_rng(0).normal(size=(count, 8))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 16])
def test_every_item_runs_at_each_batch_size(max_batch: int) -> None:
    truth, sizes, seen = rows(5), [], set()

    def run(batch: NDArray[np.int64]) -> gate.Vectors:
        sizes.append(len(batch))
        seen.update(batch.ravel().tolist())
        return truth[batch.ravel()]

    assert gate._lowest(run, np.arange(5)[:, None], truth, max_batch) == pytest.approx(1)
    assert set(sizes) == {1, min(2, max_batch), max_batch}
    assert seen == set(range(5))


def test_one_bad_item_at_the_largest_batch_shows() -> None:
    truth = rows(5)

    def run(batch: NDArray[np.int64]) -> gate.Vectors:
        found = truth[batch.ravel()].copy()
        if len(batch) == 8:
            found[6] = -found[6]
        return found

    assert gate._lowest(run, np.arange(5)[:, None], truth, 8) == pytest.approx(-1)


@pytest.mark.parametrize("factor", [2.0, 0.0, np.nan])
def test_vectors_must_be_of_length_one(factor: float) -> None:
    truth = rows(3)
    with np.errstate(invalid="ignore"):
        lowest = gate._lowest(lambda batch: truth[batch.ravel()] * np.float32(factor),
                              np.arange(3)[:, None], truth, 2)  # fmt: skip
    assert np.isnan(lowest)


class Identity(nn.Module):
    def encode_image(self, image: torch.Tensor, normalize: bool) -> torch.Tensor:
        assert not normalize
        return image.flatten(1)


def test_normalisation_is_that_of_open_clip() -> None:
    rules = Preprocessing(
        image_size=16, mean=(0.48, 0.45, 0.4), std=(0.26, 0.25, 0.27), resize_mode="shortest",
        interpolation="bicubic",
    )  # fmt: skip
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    transform = image_transform_v2(
        PreprocessCfg(size=16, mean=rules.mean, std=rules.std), is_train=False
    )
    expected = nn.functional.normalize(transform(Image.fromarray(pixels)).flatten(), dim=0)
    found = ImageTower(Identity(), rules)(torch.from_numpy(pixels)[None])[0]
    assert torch.allclose(found, expected, atol=1e-7, rtol=0)


def test_token_lengths() -> None:
    assert token_lengths((16, 24, 32), 77, any_length=True) == (16, 24, 32, 77)
    assert token_lengths((32, 16, 16, 99, 77), 77, any_length=True) == (16, 32, 77)
    assert token_lengths((16, 24, 32), 64, any_length=False) == (64,)
    assert token_lengths((), 77, any_length=True) == (77,)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (float("nan"), "text tower's vectors are not of length 1"),
        (0.9995, r"text tower's lowest cosine .* is 0\.999500, 0\.000400 short of 0\.9999"),
    ],
)
def test_refusal_says_how_far_short(found: float, message: str) -> None:
    with pytest.raises(GateError, match=message) as refused:
        gate._refuse_below(0.9999, "text", found)
    assert refused.value.exit_code == 2
    gate._refuse_below(0.9999, "text", 0.9999)
