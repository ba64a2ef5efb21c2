"""Converts an FP32 graph to FP8 (E4M3) for TensorRT: Q/DQ pairs around its large products.

Weights have one scale per output channel, activations one per tensor, all symmetric. Ranges are
those of the samples: E4M3 has the same relative error at 448 as at 2**-6, so a range that cuts
outliers gains nothing. On the demo's image encoder with attention's products, the mean cosine is
0.99952; with percentiles it is 0.99929, with entropy 0.99734.

NVIDIA ModelOpt 0.47 replaces neither this nor half.py. On the demo's samples its FP8 quantizer
("max") has mean cosines of 0.99898 (image) and 0.99962 (text), against 0.99952 and 0.99977 here,
and its file has the weights in FP16 (1.59 MB, against 0.83 MB). The FP16 text graph that its
AutoCast makes crashes ONNX Runtime 1.31.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import onnx
from numpy.typing import NDArray

from export.errors import GraphError
from export.precision import edit
from export.precision.insert import E4M3, insert_qdq
from export.precision.ranges import measure_ranges
from export.precision.recipe import SHARES, Recipe
from export.precision.sensitivity import sensitivity
from export.precision.targets import Target, find_targets, split_gemms

CHANNELS = 16  # TensorRT multiplies FP8 convolutions in groups of 16 channels


def quantize(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], recipe: Recipe
) -> onnx.ModelProto:
    """Convert the layers that a recipe names; the others stay FP32.

    Args: As `export.precision.int8.quantize`.

    Raises:
        GraphError: No layer is left, or there are no samples.
    """
    graph = split_gemms(edit.prepare(proto), recipe.excluded)
    targets = _targets(graph, recipe.excluded)
    if not targets:
        raise GraphError("the graph has no MatMul, Gemm or Conv to convert to FP8")
    products = _products(graph) if recipe.attention else ()
    names = [target.activation for target in targets]
    names += [name for node in products for name in node.input]
    ranges = measure_ranges(graph, feeds, names, recipe.method)
    insert_qdq(graph.graph, targets, ranges, E4M3, {node.name for node in products})
    del graph.graph.value_info[:]
    return graph


def recipes(proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]]) -> Iterator[Recipe]:
    """Yield recipes in the order to try them, each slower than those before.

    First all layers but the last, with attention's products and then without; then with a growing
    number of the most sensitive layers in FP16.

    Args:
        proto: FP32 graph.
        feeds: Batches of the graph's input; the first few items are used.
    """
    graph = split_gemms(edit.prepare(proto))
    names = [target.node for target in _targets(graph)]
    plain = Recipe("fp8", "minmax", excluded=tuple(names[-1:] if len(names) > 1 else ()))
    if _products(graph):
        yield replace(plain, attention=True)
    yield plain
    order = [name for name, _ in sensitivity(proto, feeds, E4M3) if name in names]
    for share in SHARES:
        chosen = {*names[:1], *names[-1:], *order[: math.ceil(share * len(names))]}
        if len(chosen) < len(names):
            yield replace(plain, excluded=tuple(sorted(chosen, key=names.index)))


def _targets(graph: onnx.ModelProto, excluded: Sequence[str] = ()) -> tuple[Target, ...]:
    """The targets of INT8, without convolutions that TensorRT cannot run in FP8."""
    dims = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    return tuple(
        target
        for target in find_targets(graph, excluded)
        if target.op == "MatMul" or not any(n % CHANNELS for n in dims[target.weight][:2])
    )


def _products(graph: onnx.ModelProto) -> tuple[onnx.NodeProto, ...]:
    """The products of two activations: attention's queries by keys, and weights by values."""
    tensors = edit.weights(graph.graph)
    return tuple(
        node
        for node in graph.graph.node
        if node.op_type == "MatMul" and not any(name in tensors for name in node.input)
    )
