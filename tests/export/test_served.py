"""Every kind of model, exported, in the real Triton and behind the gateway, equals PyTorch."""

import math
import shutil
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from export.source.checkpoint import Checkpoint, load_checkpoint
from tests.export.conftest import KINDS, Exported
from tests.export.serving import serving
from tests.gateway.waiting import wait_until
from tests.items import b64, encoded, vectors

TEXTS = ["a photo of a cat", "two small red cars beside an old stone bridge", "dog " * 40, "x"]


@pytest.fixture(scope="module")
def served(
    exported: Callable[[str], Exported],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    repository = tmp_path_factory.mktemp("every-kind")
    for kind in KINDS:
        shutil.copytree(exported(kind)[1], repository, dirs_exist_ok=True)
    with serving(repository) as api:
        yield api


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(1)
    sizes = ((80, 60), (33, 190), (64, 64))
    return [
        Image.fromarray(random.integers(0, 256, (high, wide, 3), dtype=np.uint8))
        for wide, high in sizes
    ]


def items(texts: list[str]) -> list[dict[str, str]]:
    """Texts, and then the pictures, as a request holds them."""
    images = [{"image": b64(encoded(picture))} for picture in pictures()]
    return [*({"text": text} for text in texts), *images]


def truth(checkpoint: Checkpoint, texts: list[str]) -> np.ndarray:
    """What PyTorch makes of the same items, float32 [n, D]."""
    pixels = torch.stack([checkpoint.transform(picture) for picture in pictures()])
    with torch.inference_mode():
        both = (
            checkpoint.model.encode_text(checkpoint.tokenizer(texts), normalize=False),
            checkpoint.model.encode_image(pixels, normalize=False),
        )
    return functional.normalize(torch.cat(both), dim=-1).numpy()


def test_all_are_ready_and_listed(served: httpx.Client) -> None:
    # Not for a moment, where a busy machine is late with a golden vector.
    wait_until(lambda: served.get("/readyz").status_code == httpx.codes.OK)
    assert len(served.get("/v1/models").json()["data"]) == len(KINDS)


def test_a_request_must_name_one_of_several_models(served: httpx.Client) -> None:
    response = served.post("/v1/embeddings", json={"input": "x"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"


@pytest.mark.parametrize("kind", KINDS)
def test_equals_pytorch(
    served: httpx.Client,
    exported: Callable[[str], Exported],
    model_of: Callable[[str], str],
    kind: str,
) -> None:
    manifest, _ = exported(kind)
    expected = truth(load_checkpoint(model_of(kind), None, None), TEXTS)
    found = vectors(served, model=manifest.id, input=items(TEXTS))
    assert (found * expected).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_scores_are_softmax_or_sigmoid(
    served: httpx.Client, exported: Callable[[str], Exported], kind: str
) -> None:
    manifest, _ = exported(kind)
    response = served.post(
        "/v1/zero-shot",
        json={"model": manifest.id, "image": b64(encoded(pictures()[0])), "labels": TEXTS[:3]},
    )
    entries = response.json()["results"][0]["predictions"]
    if manifest.logit_bias is None:
        assert sum(entry["score"] for entry in entries) == pytest.approx(1)
        return
    for entry in entries:
        logit = manifest.logit_scale * entry["cosine"] + manifest.logit_bias
        assert entry["score"] == pytest.approx(1 / (1 + math.exp(-logit)))
