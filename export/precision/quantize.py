"""Converts an FP32 graph to INT8, in the fastest form for TensorRT or ONNX Runtime on a CPU.

recipe.py     recipes in order of speed       ranges.py   calibration: activations -> scales
targets.py    the layers that can be INT8    smooth.py   SmoothQuant
insert.py     writes Q/DQ nodes               sensitivity.py  error of each layer
"""

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from export.errors import GraphError
from export.precision import edit
from export.precision.insert import INT8, UINT8, insert_qdq
from export.precision.ranges import Method, measure_ranges
from export.precision.recipe import DEFAULT_CPU_FORM, Form, Recipe, recipes
from export.precision.sensitivity import sensitivity
from export.precision.smooth import smooth
from export.precision.targets import find_targets, split_gemms

__all__ = [
    "DEFAULT_CPU_FORM", "Form", "Method", "Recipe", "quantize", "recipes", "sensitivity", "smooth",
]  # fmt: skip


def quantize(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], recipe: Recipe
) -> onnx.ModelProto:
    """Quantize a graph's large layers; weights are symmetric, one scale per output channel.

    Args:
        proto: FP32 graph, not changed.
        feeds: Batches of its input to calibrate with; a few hundred items suffice.
        recipe: The recipe.

    Raises:
        GraphError: The graph has no layer to quantize, the recipe excludes an unknown node, or
            there are no samples.
    """
    graph = split_gemms(edit.prepare(proto), recipe.excluded)
    known = {node.name for node in graph.graph.node}
    if missing := [name for name in recipe.excluded if name not in known]:
        raise GraphError(f"the recipe excludes {', '.join(missing[:3])}: no such node")
    if recipe.smooth is not None:
        graph = smooth(graph, feeds, recipe.smooth, recipe.excluded)
    targets = find_targets(graph, recipe.excluded)
    if not targets:
        raise GraphError("the graph has no MatMul, Gemm or Conv with constant weights to quantize")
    unsigned = recipe.form == "uint8"
    names = [target.activation for target in targets]
    names += [target.output for target in targets if unsigned and target.op == "Conv"]
    ranges = measure_ranges(graph, feeds, names, recipe.method)
    insert_qdq(graph.graph, targets, ranges, UINT8 if unsigned else INT8)
    del graph.graph.value_info[:]
    return graph
