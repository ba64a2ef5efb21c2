"""Measures the error that INT8 or FP8 causes in each layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.precision import edit
from export.precision.insert import E4M3, INT8, Number, activation_scale, quantize_weight, rounded
from export.precision.targets import Target, find_targets, split_gemms

ITEMS = 4  # samples
ROWS = 256  # of each activation


def sensitivity(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], number: Number = INT8
) -> list[tuple[str, float]]:
    """Measure the relative error of rounding in each layer on a few samples, largest first.

    For a MatMul it is the error of the product of the rounded weight and activation; for a Conv
    the root of the summed squares of both errors, as for independent random errors.

    Returns:
        Pairs of node name and error, 0 or more.
    """
    graph = split_gemms(proto)
    targets, tensors = find_targets(graph, fp8=number == E4M3), edit.weights(graph.graph)
    names = [target.activation for target in targets]
    run = next(edit.observe(graph, [feeds[0][:ITEMS]], names))
    errors = {
        target.node: _error(target, run[target.activation], tensors[target.weight], number)
        for target in targets
    }
    return sorted(errors.items(), key=lambda item: (-item[1], item[0]))


def _error(
    target: Target, values: NDArray[np.float32], tensor: onnx.TensorProto, number: Number
) -> float:
    weight = numpy_helper.to_array(tensor)
    scale, _ = activation_scale((float(values.min()), float(values.max())), number)
    near = rounded(values / scale, number).astype(np.float32) * scale
    quantized, scales = quantize_weight(weight, target.axis, number=number)
    shape = [-1 if n == target.axis else 1 for n in range(weight.ndim)]
    dequantized = quantized.astype(np.float32) * scales.reshape(shape)
    if target.op == "Conv":
        return float(np.hypot(_relative(values, near), _relative(weight, dequantized)))
    rows = values.reshape(-1, len(weight))
    step = max(1, len(rows) // ROWS)
    return _relative(rows[::step] @ weight, near.reshape(rows.shape)[::step] @ dequantized)


def _relative(exact: NDArray[np.float32], rough: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(exact - rough) / (np.linalg.norm(exact) or 1))
