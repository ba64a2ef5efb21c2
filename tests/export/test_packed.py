"""The packed text encoder: OpenCLIP's vectors, whatever shares the batch and whatever pads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from numpy.typing import NDArray
from open_clip.transformer import TextTransformer
from torch import nn
from tritonclient.grpc import model_config_pb2

from export.command.pipeline import export_model
from export.errors import GraphError
from export.gate import probe
from export.publish.job import Options
from export.publish.pbtxt import Serving
from export.publish.progress import Progress
from export.source import graph
from export.source.checkpoint import Checkpoint, load_checkpoint
from export.source.encoders import CustomClip, TextEncoder, text_encoder, why_full_length_only
from export.source.packed import PackedTextEncoder, why_not_packed
from gateway.models.manifest import TOKEN_IDS, Manifest
from tests.export import models

PACKED = ["vit", "quickgelu", "timm"]  # OpenCLIP's own text encoders, in CLIP and CustomTextCLIP
TEXTS = ["", "a cat", "a photo of a cat", "two small red cars " * 30]
JUNK = 7  # a token that means something
END_TOKEN = 49407  # of OpenCLIP's own tokenizer


def texts(checkpoint: Checkpoint) -> tuple[torch.Tensor, NDArray[np.float32]]:
    ids = checkpoint.tokenizer(TEXTS)
    with torch.inference_mode():
        features = checkpoint.model.encode_text(ids, normalize=True)
    return ids, features.numpy()


def layer_scale(folder: Path) -> str:
    config = {**models.vit(), "text_cfg": {**models.CLIP_TEXT, "ls_init_value": 0.5}}
    return str(models.write_config(folder, "tiny-scaled", config))


def by_end_token(folder: Path) -> str:
    config = {
        **models.vit(),
        "text_cfg": {**models.CLIP_TEXT, "pool_type": "eos", "eos_id": END_TOKEN},
    }
    return str(models.write_config(folder, "tiny-eos", config))


@pytest.mark.parametrize("kind", [*PACKED, layer_scale, by_end_token])
def test_it_is_open_clips_at_any_length(
    kind: str | Callable[[Path], str], model_of: Callable[[str], str], tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(model_of(kind) if isinstance(kind, str) else kind(tmp_path))
    assert why_not_packed(checkpoint.model, pad_id=0) is None
    ids, truth = texts(checkpoint)
    encoder = PackedTextEncoder(checkpoint.model).eval()
    ends = ids.argmax(dim=-1)
    with torch.inference_mode():
        for length in range(2, ids.shape[1] + 1):
            fits = ends < length
            found = encoder(ids[fits, :length].int()).numpy()
            np.testing.assert_allclose(found, truth[fits.numpy()], atol=1e-6)


def test_what_follows_the_end_token_is_not_looked_at(model_of: Callable[[str], str]) -> None:
    checkpoint = load_checkpoint(model_of("vit"))
    ids, truth = texts(checkpoint)
    after = torch.arange(ids.shape[1]) > ids.argmax(dim=-1)[:, None]
    with torch.inference_mode():
        found = PackedTextEncoder(checkpoint.model).eval()(torch.where(after, JUNK, ids).int())
    np.testing.assert_allclose(found.numpy(), truth, atol=1e-6)


@pytest.mark.parametrize("eos_id", [None, 1, 2])  # None: the largest id ends a row
def test_a_probe_runs_rows_of_full_length(eos_id: int | None) -> None:
    ids = probe.items((3, 77))
    ends = (ids if eos_id is None else ids == eos_id).argmax(axis=-1)
    assert ids.shape == (3, 77)
    assert (ends >= 77 - 3).all()


@pytest.mark.parametrize(
    ("kind", "pad_id", "reason"),
    [("coca", 0, "CoCa"), ("siglip", 1, "not causal"), ("hf_text", 0, "HFTextEncoder")],
)
def test_encoders_that_cannot_be_packed(
    kind: str, pad_id: int, reason: str, model_of: Callable[[str], str]
) -> None:
    checkpoint = load_checkpoint(model_of(kind))
    assert reason in (why_not_packed(checkpoint.model, pad_id) or "")


def test_a_custom_encoder_that_masks_its_padding_keeps_its_own_code() -> None:
    text = TextTransformer(
        context_length=24, width=32, heads=2, layers=1, output_dim=16, no_causal_mask=True
    )
    model = CustomClip(nn.Identity(), text, any_length=True)
    assert why_full_length_only(model, pad_id=0) is None
    assert why_not_packed(model, pad_id=0) == "its attention is not causal"
    assert isinstance(text_encoder(model, pad_id=0), TextEncoder)


def export(model: str, root: Path, notices: list[str]) -> Manifest:
    class Noting(Progress):
        def notice(self, text: str) -> None:
            notices.append(text)

    options = Options(model=model, repository=root, serving=Serving(max_batch=4))
    [outcome] = export_model(options, Noting())
    assert outcome.manifest is not None
    return outcome.manifest


def run(session: Any, ids: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(session.run(None, {TOKEN_IDS: ids.int().numpy()})[0])


def test_one_triton_model_takes_all_texts(model_of: Callable[[str], str], tmp_path: Path) -> None:
    manifest = export(model_of("vit"), tmp_path / "models", [])
    [text] = manifest.triton.text
    length = manifest.tokenizer.context_length
    assert (text.packed, text.length, manifest.token_lengths) == (True, length, ())
    folders = {path.name for path in (tmp_path / "models").iterdir() if path.is_dir()}
    assert folders == {manifest.triton.image.name, text.name}
    config = model_config_pb2.ModelConfig()
    text_format.Parse((tmp_path / "models" / text.name / "config.pbtxt").read_text(), config)
    assert list(config.input[0].dims) == [-1]
    assert {each.length for each in manifest.gate.text.runs} == {16, length}
    assert manifest.gate.text.min_cosine > 0.99999
    ids, truth = texts(load_checkpoint(model_of("vit")))
    session = onnxruntime.InferenceSession(tmp_path / "models" / text.name / "1" / "model.onnx")
    np.testing.assert_allclose(run(session, ids), truth, atol=2e-6)
    np.testing.assert_allclose(run(session, ids[:1, :2]), truth[:1], atol=2e-6)


def test_blocks_of_another_kind_are_padded_and_the_user_is_told(tmp_path: Path) -> None:
    config = {**models.vit(), "text_cfg": {**models.CLIP_TEXT, "block_type": "custom"}}
    model = str(models.write_config(tmp_path, "tiny-custom", config))
    notices: list[str] = []
    manifest = export(model, tmp_path / "models", notices)
    assert manifest.token_lengths == (16, manifest.tokenizer.context_length)
    assert any("CustomResidualAttentionBlock" in notice for notice in notices), notices


def test_what_the_exporter_refuses_is_padded_and_the_user_is_told(
    model_of: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(encoder: nn.Module, example: torch.Tensor, output: str) -> graph.Graph:
        raise GraphError(f"{output}: not today")

    monkeypatch.setattr(graph, "trace_any_length", refuse)
    notices: list[str] = []
    manifest = export(model_of("vit"), tmp_path / "models", notices)
    assert manifest.token_lengths
    assert any("not today" in notice for notice in notices), notices
