"""The image encoder whose last block runs for the class token only, against OpenCLIP's own."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import open_clip
import pytest
import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import VisionTransformer
from torch import nn

from export.source import graph, tracing
from export.source.blocks import why_not_in_steps
from export.source.checkpoint import load_checkpoint
from export.source.encoders import ImageEncoder, OpenClipModel, image_encoder
from export.source.fingerprint import fingerprint
from export.source.last_block import ClassTokenEncoder, why_all_tokens
from gateway.models.manifest import Preprocessing, Tokenizer
from tests.export import models

RULES = Preprocessing(
    image_size=32, mean=(0.48, 0.45, 0.4), std=(0.26, 0.25, 0.27), resize_mode="shortest",
    interpolation="bicubic",
)  # fmt: skip
CUSTOM = {"custom_text": True, "text_cfg": {**models.CLIP_TEXT, "pool_type": "argmax"}}


def config(**vision: Any) -> dict[str, Any]:
    return {**models.vit(), "vision_cfg": {**models.VIT, **vision}}


SOUND: dict[str, dict[str, Any]] = {
    "clip": models.vit(),
    "quick gelu": models.quickgelu(),
    "custom text": {**models.vit(), **CUSTOM},
    "layer scale": config(ls_init_value=0.3),
    "norm after pooling": config(final_ln_after_pool=True),
    "no first norm": config(no_ln_pre=True),
    "fixed positions": config(pos_embed_type="sin_cos_2d"),
    "patch dropout": config(patch_dropout=0.5),
    "one layer": config(layers=1),
}
UNSOUND: dict[str, tuple[dict[str, Any], str]] = {
    "average": (config(pool_type="avg"), "does not pool its class token"),
    "attentional pooling": (models.coca(), "does not pool its class token"),
    "tokens": (config(output_tokens=True), "returns its tokens as well"),
    "timm": (models.timm(), "TimmModel is not"),
    "resnet": (models.resnet(), "ModifiedResNet is not"),
    "other blocks": (config(block_type="custom"), "CustomResidualAttentionBlock"),
    "normed queries": (config(qk_norm=True), "CustomResidualAttentionBlock"),
}


def create(folder: Path, content: dict[str, Any]) -> OpenClipModel:
    """A model with weights that make every step of a block count."""
    path = models.write_config(folder, f"{folder.name}-lastblock", content)
    open_clip.add_model_config(path)
    torch.manual_seed(4)
    model = open_clip.create_model(path.stem, pretrained_text=False).eval()
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def pixels(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)


@pytest.mark.parametrize("kind", SOUND)
def test_it_answers_as_open_clip(kind: str, tmp_path: Path) -> None:
    model = create(tmp_path, SOUND[kind])
    assert isinstance(model, CustomTextCLIP if kind == "custom text" else CLIP)
    assert why_all_tokens(model) is None
    encoder = image_encoder(model, RULES).eval()
    assert isinstance(encoder.model, ClassTokenEncoder)
    batch = pixels()
    with torch.inference_mode():
        found, exact = (each(batch) for each in (encoder, ImageEncoder(model, RULES)))
        assert exact.std(dim=0).max() > 1e-3  # the pictures have different vectors
        torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)
        floats = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(
            encoder.model.encode_image(floats, normalize=True),
            model.encode_image(floats, normalize=True), atol=1e-6, rtol=0,
        )  # fmt: skip


def test_a_transformer_without_a_projection(tmp_path: Path) -> None:
    model = create(tmp_path, models.vit())
    model.visual.proj = None
    floats = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        found = ClassTokenEncoder(model.visual).encode_image(floats)
        torch.testing.assert_close(found, model.visual(floats), atol=1e-5, rtol=0)
    assert found.shape == (2, 64)


@pytest.mark.parametrize("kind", UNSOUND)
def test_others_run_as_they_are(kind: str, tmp_path: Path) -> None:
    content, reason = UNSOUND[kind]
    model = create(tmp_path, content)
    assert reason in (why_all_tokens(model) or "")
    encoder = image_encoder(model, RULES)
    assert type(encoder) is ImageEncoder
    assert encoder.model is model


def test_subclasses_and_other_attention_are_refused(tmp_path: Path) -> None:
    model = create(tmp_path, models.vit())
    block = model.visual.transformer.resblocks[-1]
    assert why_not_in_steps(block) is None
    for attention in (
        nn.MultiheadAttention(64, 2, kdim=32, vdim=32),
        nn.MultiheadAttention(64, 2, add_bias_kv=True),
        nn.MultiheadAttention(64, 2, add_zero_attn=True),
        nn.Identity(),
    ):
        block.attn = attention
        assert "by other means" in (why_all_tokens(model) or "")
    block.ln_1_kv = nn.LayerNorm(64)
    assert "of another kind" in (why_all_tokens(model) or "")
    model.visual.__class__ = type("OwnTransformer", (VisionTransformer,), {})
    assert "OwnTransformer is not" in (why_all_tokens(model) or "")


def test_the_graph_runs_one_row_of_the_last_block(model_of: Callable[[str], str]) -> None:
    """And its layers are MatMuls of constants, which INT8 and FP16 know."""
    checkpoint = load_checkpoint(model_of("vit"))
    found = tracing.image_graph(checkpoint)
    encoder = ImageEncoder(checkpoint.model, checkpoint.preprocessing).eval()
    full = graph.trace(encoder, pixels(2), "image_features")
    assert found.notice is None
    counts = [Counter(node.op_type for node in each.proto.graph.node) for each in (found, full)]
    added = counts[0] - counts[1]
    assert set(added) <= {"MatMul", "Add", "LayerNormalization", "Slice", "Split"}
    assert not counts[1]["Split"]
    inferred = onnx.shape_inference.infer_shapes(found.proto, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
        for value in inferred.graph.value_info
    }
    weights = {tensor.name: list(tensor.dims) for tensor in found.proto.graph.initializer}
    layers = [
        (weights[node.input[1]], shapes[node.output[0]])
        for node in found.proto.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    ]
    last = sorted(layers[-6:-1])  # before the projection of the pooled token
    assert last == [
        ([64, 64], [1, 64]), ([64, 64], [1, 64]), ([64, 128], [17, 128]), ([64, 256], [1, 256]),
        ([256, 64], [1, 64]),
    ]  # fmt: skip


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    """So that the fingerprint, which names the vectors, stays."""
    model = create(tmp_path, models.vit())
    tokenizer = Tokenizer(
        file="a.json", sha256="0" * 64, clean="lower", context_length=24, pad_id=0
    )
    before = fingerprint(model, RULES, tokenizer, "fp32")
    encoder = image_encoder(model, RULES).eval()
    with torch.inference_mode():
        encoder(pixels())
    assert fingerprint(model, RULES, tokenizer, "fp32") == before
