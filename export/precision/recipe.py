"""Recipes to quantize a graph, from the fastest to safer ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import onnx
from numpy.typing import NDArray

from export.precision.insert import E4M3
from export.precision.ranges import Method
from export.precision.sensitivity import sensitivity
from export.precision.targets import find_products, find_targets, split_gemms

# qdq: symmetric int8 activations, quantized at the input of a layer, for TensorRT.
# uint8: uint8 activations with zero points; Convs with INT32 bias and quantized output.
# fp8: E4M3 weights and activations around 0, for TensorRT.
Form: TypeAlias = Literal["qdq", "uint8", "fp8"]

# Speedup over FP32 in items/s (8 images, 8 texts of 16 tokens, 4 images), measured in turns on
# 2026-11-21: random weights, ONNX Runtime 1.31, 2 cores of an AMD EPYC with AVX512-VNNI;
# dynamic quantization computes the scales of activations in each run:
#            ViT-B-32 image   ViT-B-32 text   RN50 image
#   uint8         2.26             2.14           2.09
#   dynamic       2.27             2.10           0.90
#   qdq           2.18             2.12           0.60
# ONNX Runtime's own quantizers were within 5 % of these on ViT-B-32: QDQ S8S8 2.22, QDQ U8S8 2.14,
# dynamic S8 2.02, but dynamic with U8 weights 1.28. Per-channel scales cost nothing.
DEFAULT_CPU_FORM: Form = "uint8"

ALPHAS = (0.5, 0.65, 0.8)  # of SmoothQuant; higher ones are known to ruin CLIP
SHARES = (0.1, 0.25, 0.5)  # of the layers, most sensitive first, left in FP32


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize a graph."""

    form: Form
    method: Method  # chooses the ranges of activations
    smooth: float | None = None  # SmoothQuant's alpha
    excluded: tuple[str, ...] = ()  # names of nodes that are not quantized
    attention: bool = False  # FP8: its products of two activations as well

    def describe(self) -> str:
        """Describe the recipe in one line."""
        parts: list[str] = [self.form, self.method]
        if self.smooth is not None:
            parts.append(f"SmoothQuant alpha {self.smooth:g}")
        if self.attention:
            parts.append("attention's products")
        if self.excluded:
            rest = "FP32" if self.form == "uint8" else "FP16"  # as `candidates` converts them
            parts.append(f"{len(self.excluded)} layers in {rest}")
        return ", ".join(parts)


def recipes(
    proto: onnx.ModelProto, form: Form, method: Method, feeds: Sequence[NDArray[Any]]
) -> Iterator[Recipe]:
    """Yield the recipes of a form in the order to try them, each slower than those before.

    Measure the sensitivity of the FP32 graph only when needed, with the first few items of the
    feeds. `method` is for INT8: FP8 always takes the ranges of the samples.
    """
    return _fp8(proto, feeds) if form == "fp8" else _int8(proto, Recipe(form, method), feeds)


def _int8(proto: onnx.ModelProto, plain: Recipe, feeds: Sequence[NDArray[Any]]) -> Iterator[Recipe]:
    """First plain, then smoothed; then with layers in FP32, each plain and smoothed.

    The layers in FP32 are the first, the last and a growing number of the most sensitive ones.
    """
    yield plain
    for alpha in ALPHAS:
        yield replace(plain, smooth=alpha)
    names = [target.node for target in find_targets(split_gemms(proto))]
    order = [name for name, _ in sensitivity(proto, feeds)]
    for share in (0, *SHARES):
        if chosen := _excluded(names, order, share):
            yield replace(plain, excluded=chosen)
            yield replace(plain, excluded=chosen, smooth=ALPHAS[0])


def _fp8(proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]]) -> Iterator[Recipe]:
    """First all layers but the last, with attention's products and then without; then fewer.

    The layers in FP16 are the first, the last and a growing number of the most sensitive ones.
    """
    graph = split_gemms(proto)
    names = [target.node for target in find_targets(graph, fp8=True)]
    plain = Recipe("fp8", "minmax", excluded=tuple(names[-1:] if len(names) > 1 else ()))
    if find_products(graph):
        yield replace(plain, attention=True)
    yield plain
    order = [name for name, _ in sensitivity(proto, feeds, E4M3)]
    for share in SHARES:
        if chosen := _excluded(names, order, share):
            yield replace(plain, excluded=chosen)


def _excluded(names: Sequence[str], order: Sequence[str], share: float) -> tuple[str, ...] | None:
    """The first and last layer and a share of the most sensitive ones; None if these are all.

    `names` are the layers in the order of the graph, `order` has the most sensitive ones first.
    """
    chosen = {*names[:1], *names[-1:], *order[: math.ceil(share * len(names))]}
    return tuple(sorted(chosen, key=names.index)) if len(chosen) < len(names) else None
