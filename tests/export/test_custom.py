"""Models of the user's own, and one with a long context, in the real Triton behind the gateway."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from examples.models import mpnet
from export.__main__ import main
from export.source.checkpoint import load_checkpoint
from export.source.custom import load_custom
from export.source.fingerprint import fingerprint
from export.source.packed import PackedTextEncoder, why_not_packed
from gateway.models.manifest import Manifest, read_repository
from tests.export import custom_models, models
from tests.export.serving import serving
from tests.export.test_served import items, truth
from tests.items import vectors

HERE = "tests.export.custom_models"
MIXERS, MPNET = f"{HERE}:mixers", "examples.models.mpnet:clip"
LONG = 248  # tokens of Long-CLIP
TEXTS = ["a photo of a cat", "two small red cars beside an old stone bridge", "dog " * 60, "cat"]


@pytest.fixture(scope="module")
def long_config(tmp_path_factory: pytest.TempPathFactory) -> str:
    content = models.vit()
    content["text_cfg"] = {**models.CLIP_TEXT, "context_length": LONG}
    return str(models.write_config(tmp_path_factory.mktemp("long"), "tiny-long", content))


@pytest.fixture(scope="module")
def repository(long_config: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mpnet")
    root = tmp_path_factory.mktemp("own-models")
    places = ["--repository", str(root), "--report", str(root / "report"), "--max-batch", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mpnet, "IMAGE_MODEL", "test_vit")
        patch.setattr(mpnet, "CONTEXT_LENGTH", 48)
        patch.setattr(mpnet, "VECTORS", 24)
        patch.setenv("CLIP_FOLDER", str(folder))
        custom_models.save_mpnet(folder)
        lengths = ["--token-lengths", "8,full"]
        assert main(["--custom", MPNET, *places, *lengths, "--id", "mpnet"]) == 0
        several = ["--precision", "fp32,fp16,int8", "--calibrate-images", "drawn"]
        assert main(["--custom", MIXERS, *places, *several, "--allow-slow"]) == 0
        assert main([long_config, *places]) == 0
        yield root


@pytest.fixture(scope="module")
def manifests(repository: Path) -> dict[str, Manifest]:
    return read_repository(repository)


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[httpx.Client]:
    with serving(repository) as api:
        yield api


@pytest.mark.parametrize(
    ("model", "reference", "cosine"),
    [
        ("mpnet", MPNET, 0.9995),
        ("mixers", MIXERS, 0.9995),
        ("mixers.fp16", MIXERS, 0.9995),
        ("mixers.int8", MIXERS, 0.99),
    ],
)
def test_a_served_custom_model_equals_its_modules(
    served: httpx.Client, model: str, reference: str, cosine: float
) -> None:
    found = vectors(served, model=model, input=items(TEXTS))
    assert (found * truth(load_custom(reference), TEXTS)).sum(axis=1).min() >= cosine


def test_manifests_of_custom_models(manifests: dict[str, Manifest]) -> None:
    assert manifests["mpnet"].token_lengths == (8, 48)  # padding is masked
    assert manifests["mixers"].token_lengths == (16,)  # each place has weights of its own
    assert manifests["mixers"].open_clip_name == "mixers"
    assert manifests["mixers"].pretrained is None
    assert manifests["mixers.int8"].recipe.keys() == {"image", "text"}
    assert len({each.fingerprint for each in manifests.values()}) == len(manifests)


def test_the_fingerprint_covers_the_weights(manifests: dict[str, Manifest]) -> None:
    manifest, again = manifests["mixers"], load_custom(MIXERS)

    def now() -> str:
        return fingerprint(again.model, again.preprocessing, manifest.tokenizer, "fp32")

    assert now() == manifest.fingerprint
    with torch.no_grad():
        next(again.model.text.parameters()).view(-1)[0] += 0.001
    assert now() != manifest.fingerprint


def test_a_long_text_is_not_cut_at_77_tokens(
    served: httpx.Client, manifests: dict[str, Manifest], long_config: str
) -> None:
    assert manifests["tiny-long"].tokenizer.context_length == LONG
    text = " ".join(["cat"] * 150 + ["dog"] * 50)
    same_start = " ".join(["cat"] * 200)
    checkpoint = load_checkpoint(long_config)
    with torch.inference_mode():
        expected = checkpoint.model.encode_text(
            checkpoint.tokenizer([text, same_start, "cat " * 300]), normalize=True
        ).numpy()
    body = {"model": "tiny-long", "input": [text, same_start, "cat " * 300]}
    response = served.post("/v1/embeddings", json=body).json()
    found = np.array([entry["embedding"] for entry in response["data"]])
    assert (found * expected).sum(axis=1).min() >= 0.9999
    assert found[0] @ found[1] < 0.9999  # they differ only after 150 tokens
    assert [entry.get("truncated", False) for entry in response["data"]] == [False, False, True]
    assert response["usage"]["prompt_tokens"] == 202 + 202 + LONG


def test_a_text_transformer_of_openclip_is_packed() -> None:
    checkpoint = load_custom(f"{HERE}:own_text_transformer")
    ids = checkpoint.tokenizer(TEXTS)
    assert why_not_packed(checkpoint.model, pad_id=0) is None
    with torch.inference_mode():
        packed = PackedTextEncoder(checkpoint.model).eval()(ids.int())
        expected = checkpoint.model.encode_text(ids, normalize=True)
    assert torch.allclose(packed, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("examples.models", "give MODULE:FACTORY"),
        ("no.such.module:clip", "ModuleNotFoundError: No module named 'no'"),
        (f"{HERE}:missing", "has no attribute 'missing'"),
        (f"{HERE}:failing", "RuntimeError: no weights; at all"),
        (f"{HERE}:openclip_model", "returns SimpleTokenizer, not"),
        (f"{HERE}:unequal", "17 numbers and its text vectors 16; project both to one size"),
        (f"{HERE}:two_outputs", "its image encoder returns tuple for one item"),
        (f"{HERE}:other_pictures", "its image encoder fails on one item: RuntimeError"),
        (f"{HERE}:oblong", "only square ones are supported"),
    ],
)
def test_a_wrong_factory_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reference: str, message: str
) -> None:
    assert main(["--custom", reference, "--repository", str(tmp_path / "r")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("more", [["RN50"], ["--pretrained", "x"], ["--published"]])
def test_custom_stands_in_place_of_a_model(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--custom", MIXERS, *more])
    assert stop.value.code == 1
    assert "--custom" in capsys.readouterr().err
