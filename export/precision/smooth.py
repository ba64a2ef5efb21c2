"""SmoothQuant: moves outliers of activations into the weights.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", ICML 2023. Input channel j is divided by s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) and
row j of the weight multiplied by it, which leaves the FP32 result unchanged.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.errors import GraphError
from export.precision import edit
from export.precision.targets import Target, find_targets, split_gemms


def smooth(
    proto: onnx.ModelProto,
    feeds: Sequence[NDArray[Any]],
    alpha: float,
    excluded: Collection[str] = (),
) -> onnx.ModelProto:
    """Make MatMuls easier to quantize, without changing the function of the graph.

    If only smoothed layers read an activation, the division becomes part of the LayerNorm that
    makes it; else a Mul does it.

    Args:
        proto: FP32 graph, not changed.
        feeds: Batches of its input, to find the channels' maxima.
        alpha: From 0 (leave the activations) to 1 (leave the weights).
        excluded: Names of nodes that will not be quantized.

    Raises:
        GraphError: There are no samples.
    """
    graph = split_gemms(proto, excluded)
    groups: dict[str, list[Target]] = {}  # layers that read one activation share its scales
    for target in find_targets(graph, excluded):
        if target.op == "MatMul":
            groups.setdefault(target.activation, []).append(target)
    peaks = _channel_peaks(graph, feeds, list(groups))
    for activation, targets in groups.items():
        _divide(graph.graph, activation, targets, peaks[activation], alpha)
    edit.drop_unread(graph.graph)
    return graph


def _channel_peaks(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], names: list[str]
) -> dict[str, NDArray[np.float32]]:
    """max|X_j| over all samples of each activation's last axis."""
    peaks: dict[str, NDArray[np.float32]] = {}
    for run in edit.observe(proto, feeds, names):
        for name, values in run.items():
            found = abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            peaks[name] = np.maximum(peaks.get(name, found), found)
    if len(peaks) < len(names):
        raise GraphError("no samples were given to run the graph on")
    return peaks


def _divide(
    graph: onnx.GraphProto,
    activation: str,
    targets: list[Target],
    peak: NDArray[np.float32],
    alpha: float,
) -> None:
    tensors = edit.weights(graph)
    weights = [numpy_helper.to_array(tensors[target.weight]) for target in targets]
    rows = np.max([abs(weight).max(axis=1) for weight in weights], axis=0)
    scales = np.ones(peak.shape)
    used = (peak > 0) & (rows > 0)
    scales[used] = peak[used] ** alpha / rows[used] ** (1 - alpha)
    scales /= np.exp(np.log(scales).mean())  # a common factor changes only the exponents
    nodes = {node.name: node for node in graph.node}
    norm = _foldable(graph, activation, {target.node for target in targets})
    source = f"{activation}.smooth" if norm is None else activation
    for target, weight in zip(targets, weights, strict=True):
        values = (weight * scales[:, None]).astype(np.float32)
        name = f"{target.node}.smoothed"
        graph.initializer.append(numpy_helper.from_array(values, name))
        nodes[target.node].input[:] = [source, name]
    if norm is None:
        factor = numpy_helper.from_array((1 / scales).astype(np.float32), f"{activation}.smoothing")
        graph.initializer.append(factor)
        mul = onnx.helper.make_node("Mul", [activation, factor.name], [source], source)
        at = next(i for i, node in enumerate(graph.node) if node.name == targets[0].node)
        graph.node.insert(at, mul)
        return
    for index in range(1, len(norm.input)):
        values = (numpy_helper.to_array(tensors[norm.input[index]]) / scales).astype(np.float32)
        norm.input[index] = f"{norm.name}.smoothed.{index}"
        graph.initializer.append(numpy_helper.from_array(values, norm.input[index]))


def _foldable(graph: onnx.GraphProto, activation: str, readers: set[str]) -> onnx.NodeProto | None:
    """Find the LayerNorm whose output only these nodes read, directly or through transposes."""
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    count = sum(activation in node.input for node in graph.node if node.name in readers)
    tensors = edit.weights(graph)
    while (node := makers.get(activation)) is not None and uses[activation] == count:
        if node.op_type == "LayerNormalization":
            last = onnx.helper.get_node_attr_value(node, "axis") == -1
            fixed = all(name in tensors for name in node.input[1:])
            return node if last and fixed and len(node.output) == 1 else None
        if node.op_type != "Transpose":
            return None
        order = onnx.helper.get_node_attr_value(node, "perm")
        if order[-1] != len(order) - 1:
            return None
        activation, count = node.input[0], 1
    return None
