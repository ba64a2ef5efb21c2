"""Converts an FP32 graph to INT8, for ONNX Runtime on a CPU or TensorRT, or to FP8 for TensorRT.

recipe.py     recipes in order of speed       ranges.py   calibration: activations -> scales
targets.py    the layers that can change      smooth.py   SmoothQuant
insert.py     writes Q/DQ nodes               sensitivity.py  error of each layer

FP8 (E4M3) has the ranges of the samples: its relative error is the same at 448 as at 2**-6, so a
range that cuts outliers gains nothing. On the demo's image encoder with attention's products, the
mean cosine is 0.99952; with percentiles it is 0.99929, with entropy 0.99734.

NVIDIA ModelOpt 0.47 replaces neither this nor half.py. On the demo's samples its FP8 quantizer
("max") has mean cosines of 0.99898 (image) and 0.99962 (text), against 0.99952 and 0.99977 here,
and its file has the weights in FP16 (1.59 MB, against 0.83 MB). The FP16 text graph that its
AutoCast makes crashes ONNX Runtime 1.31.
"""

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from export.errors import GraphError
from export.precision.insert import E4M3, INT8, UINT8, insert_qdq
from export.precision.ranges import measure_ranges
from export.precision.recipe import Recipe
from export.precision.smooth import smooth
from export.precision.targets import find_products, find_targets, split_gemms

_NUMBERS = {"qdq": INT8, "uint8": UINT8, "fp8": E4M3}  # of activations, by form


def quantize(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], recipe: Recipe
) -> onnx.ModelProto:
    """Quantize an FP32 graph's large layers; weights are symmetric, one scale per output channel.

    Feeds are batches of the graph's input to calibrate with; a few hundred items suffice.

    Raises:
        GraphError: The graph has no layer to quantize, the recipe excludes an unknown node, or
            there are no samples.
    """
    graph = split_gemms(proto, recipe.excluded)
    known = {node.name for node in graph.graph.node}
    if missing := [name for name in recipe.excluded if name not in known]:
        raise GraphError(f"the recipe excludes {', '.join(missing[:3])}: no such node")
    if recipe.smooth is not None:
        graph = smooth(graph, feeds, recipe.smooth, recipe.excluded)
    targets = find_targets(graph, recipe.excluded, fp8=recipe.form == "fp8")
    if not targets:
        raise GraphError("the graph has no MatMul, Gemm or Conv with constant weights to quantize")
    products = find_products(graph) if recipe.attention else ()
    names = [target.activation for target in targets]
    names += [name for node in products for name in node.input]
    if recipe.form == "uint8":
        names += [target.output for target in targets if target.op == "Conv"]
    ranges = measure_ranges(graph, feeds, names, recipe.method)
    number = _NUMBERS[recipe.form]
    insert_qdq(graph.graph, targets, ranges, number, {node.name for node in products})
    del graph.graph.value_info[:]
    return graph
