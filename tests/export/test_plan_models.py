"""TensorRT-RTX builds every typed graph, image and text, strongly typed and without a GPU.

Of real architectures, in their own widths, it builds two blocks of each kind: deeper ones have the
same nodes, more often.
"""

import gc
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.architectures.cut import shorten
from export.demo.model import CHECKPOINT, CONFIG
from export.precision.recipe import Form
from export.precision.variants import Graphs, candidates, halved
from export.source import graph, tracing
from export.source.checkpoint import load_checkpoint
from export.tensorrt.plan import build_plan
from gateway.models.manifest import PIXELS, TOKEN_IDS
from tests.export import models

BATCH = 4
CAPABILITIES = {"fp8": ("8.9", "12.0")}  # of Ada, and of Blackwell
ANY = ("8.9",)
SAMPLES = 2  # to calibrate with
KNOWN_IDS = 60  # token ids that every tokenizer here has
REAL = {"ViT-B-32": 2, "RN50": 5, "ViT-B-16-SigLIP": 2}  # rows of equal blocks in both encoders
SMALL = ("demo", "timm", "mixer", "siglip2", "coca", "hf_text", "quickgelu")


@pytest.fixture(scope="module", params=(*REAL, *SMALL))
def traced(
    request: pytest.FixtureRequest,
    model_of: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Graphs]:
    """A model's FP32 graphs, as export makes them; one model at a time is in memory."""
    kind = request.param
    if kind == "demo":
        checkpoint = load_checkpoint(str(CONFIG), str(CHECKPOINT))
    elif "SigLIP" in kind:  # which would else download its tokenizer
        folder = models.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))
        checkpoint = load_checkpoint(kind, None, folder)
    else:
        checkpoint = load_checkpoint(kind if kind in REAL else model_of(kind))
    if kind in REAL:
        assert shorten(checkpoint.model) == REAL[kind]
    image = tracing.image_graph(checkpoint).proto
    text = tracing.text_graphs(checkpoint, 0, ())  # at the full context, as each is served
    del checkpoint
    yield Graphs(image, {length: made.proto for length, made in text.by_length.items()})
    del image, text
    gc.collect()


@pytest.fixture(scope="module")
def in_fp16(traced: Graphs) -> Iterator[Graphs]:
    ids = {length: [samples(TOKEN_IDS, (length,))] for length in traced.text}
    yield halved(traced, [samples(PIXELS, item_of(traced, PIXELS)[1])], ids)
    gc.collect()


def item_of(graphs: Graphs, name: str) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """An encoder, and the shape of an item."""
    if name == TOKEN_IDS:
        [(length, text)] = graphs.text.items()
        return text, (length,)
    _, *dimensions = graphs.image.graph.input[0].type.tensor_type.shape.dim
    return graphs.image, tuple(dimension.dim_value for dimension in dimensions)


def samples(name: str, item: tuple[int, ...]) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    if name == PIXELS:
        return rng.integers(0, 256, (SAMPLES, *item), dtype=np.uint8)
    return rng.integers(1, KNOWN_IDS, (SAMPLES, *item), dtype=np.int32)


def quantized(graphs: Graphs, name: str, recipe: int, form: Form = "qdq") -> onnx.ModelProto:
    """An encoder by one of the recipes that export tries for TensorRT."""
    proto, item = item_of(graphs, name)
    recipes = candidates(proto, form, "minmax", [samples(name, item)], lambda candidate: 1.0)
    return next(itertools.islice(recipes, recipe, None)).proto


def assert_builds(
    rtx: ModuleType,
    model: onnx.ModelProto,
    name: str,
    item: tuple[int, ...],
    folder: Path,
    capabilities: tuple[str, ...] = ANY,
) -> None:
    path = folder / "model.onnx"
    graph.save(model, path, "model")
    for capability in capabilities:
        plan = build_plan(rtx, path, {name: item}, BATCH, compute_capability=capability)
        assert len(plan) > sum(math.prod(tensor.dims) for tensor in model.graph.initializer) / 2
    path.unlink()


@pytest.mark.parametrize("how", ["fp32", "fp16", "int8", "fp8"])
@pytest.mark.parametrize("name", [PIXELS, TOKEN_IDS])
def test_builds(
    rtx: ModuleType, traced: Graphs, in_fp16: Graphs, tmp_path: Path, name: str, how: str
) -> None:
    model, item = item_of(in_fp16 if how == "fp16" else traced, name)
    if how in ("int8", "fp8"):
        model = quantized(traced, name, 0, "fp8" if how == "fp8" else "qdq")
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert (onnx.TensorProto.INT8 in types) == (how == "int8")
    assert (onnx.TensorProto.FLOAT8E4M3FN in types) == (how == "fp8")
    assert (onnx.TensorProto.FLOAT16 in types) == (how != "fp32")
    assert_builds(rtx, model, name, item, tmp_path, CAPABILITIES.get(how, ANY))


@pytest.mark.parametrize("traced", SMALL, indirect=True)
@pytest.mark.parametrize("name", [PIXELS, TOKEN_IDS])
def test_smoothed_int8_builds(rtx: ModuleType, traced: Graphs, tmp_path: Path, name: str) -> None:
    assert_builds(rtx, quantized(traced, name, 1), name, item_of(traced, name)[1], tmp_path)
