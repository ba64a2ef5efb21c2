"""TensorRT-RTX builds every typed graph, image and text, strongly typed and without a GPU."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export import graph, towers
from export.checkpoint import load_checkpoint
from export.half import to_fp16
from export.plan import PlanOptions, build_plan
from export.quantize import Recipe, quantize
from gateway.manifest import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKEN_IDS, golden_pixels
from tests.conftest import ROOT

DEMO = ROOT / "export" / "demo"
AHEAD = PlanOptions(1, 2, 4, compute_capability="8.9")
LENGTHS = (6, 16)  # tokens to serve at, where any length will do
SAMPLES = 4
KNOWN_IDS = 60  # token ids that every tokenizer here has

Tower = tuple[onnx.ModelProto, tuple[int, ...]]  # its FP32 graph, and the shape of an item


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    importlib.import_module("tensorrt_rtx_libs")  # loads what the bindings are linked to
    return importlib.import_module("tensorrt_rtx_bindings")


@pytest.fixture(scope="module")
def tower_of(model_of: Callable[[str], str]) -> Callable[[str, str], Tower]:
    """A tower by the kind of model and the name of its input."""

    @functools.cache
    def load(kind: str) -> dict[str, Tower]:
        if kind == "demo":
            return trace(str(DEMO / "demo.json"), str(DEMO / "checkpoint.safetensors"))
        return trace(model_of(kind), None)

    return lambda kind, name: load(kind)[name]


def trace(model: str, weights: str | None) -> dict[str, Tower]:
    checkpoint = load_checkpoint(model, weights, None)
    size = checkpoint.preprocessing.image_size
    pixels = torch.from_numpy(golden_pixels(size)).expand(2, -1, -1, -1).contiguous()
    image = towers.ImageTower(checkpoint.model, checkpoint.preprocessing).eval()
    ids = checkpoint.tokenizer(["a cat", "a photo of two dogs"]).to(torch.int32)
    any_length = towers.why_full_length_only(checkpoint.model, 0) is None
    lengths = towers.token_lengths(LENGTHS, ids.shape[1], any_length=any_length)
    text = towers.text_tower(checkpoint.model, 0).eval()
    graphs = graph.trace_text(text, ids, lengths, TEXT_FEATURES)
    return {
        PIXELS: (graph.trace(image, pixels, IMAGE_FEATURES).proto, (size, size, 3)),
        TOKEN_IDS: (graphs[lengths[0]].proto, (lengths[0],)),
    }


def samples(name: str, item: tuple[int, ...]) -> list[NDArray[Any]]:
    rng = np.random.default_rng(1)
    if name == PIXELS:
        return [rng.integers(0, 256, (SAMPLES, *item), dtype=np.uint8)]
    return [rng.integers(1, KNOWN_IDS, (SAMPLES, *item), dtype=np.int32)]


def typed(proto: onnx.ModelProto, feeds: list[NDArray[Any]], how: str) -> onnx.ModelProto:
    """The graph at a precision; `int8-fp16` is smoothed, with FP16 where it is not INT8."""
    if how == "fp32":
        return proto
    if how == "fp16":
        return to_fp16(proto)
    if how == "int8":
        return quantize(proto, feeds, Recipe("qdq", "minmax"))
    return to_fp16(quantize(proto, feeds, Recipe("qdq", "minmax", smooth=0.5)))


@pytest.mark.parametrize("how", ["fp32", "fp16", "int8", "int8-fp16"])
@pytest.mark.parametrize("name", [PIXELS, TOKEN_IDS])
@pytest.mark.parametrize("kind", ["demo", "vit", "resnet", "siglip"])
def test_builds(
    rtx: ModuleType,
    tower_of: Callable[[str, str], Tower],
    tmp_path: Path,
    kind: str,
    name: str,
    how: str,
) -> None:
    proto, item = tower_of(kind, name)
    model = typed(proto, samples(name, item), how)
    graph.save(model, tmp_path / "model.onnx", kind)
    plan = build_plan(rtx, tmp_path / "model.onnx", {name: item}, AHEAD)
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert len(plan) > weights / 4  # it holds the weights, if as INT8
