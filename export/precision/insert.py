"""Writes INT8 or FP8 into a graph: QuantizeLinear and DequantizeLinear pairs.

ONNX Runtime 1.31's `quantize_static` replaces neither this nor ranges.py: its histograms refuse
packed text and keep every activation in memory, its entropy method equals minmax, and its
SmoothQuant needs another library. As uint8 on image encoders, in CPU time at batch 8 on one thread
(median and quartiles of interleaved rounds), it gains over FP32
    demo, percentile:   0.86 (0.85 to 0.88), cosine 0.9957; this: 0.92 (0.91 to 0.93), 0.9985
    ViT-B-32, minmax:   2.78 (2.74 to 2.80), cosine 0.9999; this: 2.83 (2.82 to 2.87), 0.9999
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.precision import edit
from export.precision.ranges import Range
from export.precision.targets import Target

Number: TypeAlias = "np.dtype[Any]"  # INT8, UINT8 or E4M3

BIAS_LIMIT = 2**30  # of an INT32 bias, leaving room for the sum
INT8, UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
E4M3 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)
LARGEST = {INT8: 127, E4M3: 448}  # of the numbers that are used
LEAST = {INT8: 0.0, E4M3: 2.0**-14}  # of scales: any scale that FP16 holds rounds FP8 equally well


def rounded(values: NDArray[np.float32], number: Number) -> NDArray[Any]:
    """Round to the nearest INT8 or E4M3, and clip to the largest."""
    limit = LARGEST[number]
    near = np.clip(values, -limit, limit)
    return (np.rint(near) if number == INT8 else near).astype(number)


def quantize_weight(
    values: NDArray[np.float32],
    axis: int,
    least: NDArray[np.float32] | float = 0.0,
    number: Number = INT8,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Quantize a weight around 0, with one scale of `least` or more for each output channel.

    Returns:
        Numbers like `values`, in [-127, 127] or [-448, 448], and float32 [channels] scales.
    """
    others = tuple(n for n in range(values.ndim) if n != axis)
    peaks = abs(values).max(axis=others)
    lowest = np.maximum(least, LEAST[number])
    scales = np.maximum(peaks / LARGEST[number], lowest).astype(np.float32)
    scales[scales == 0] = 1  # channels of zeros
    shape = [-1 if n == axis else 1 for n in range(values.ndim)]
    return rounded(values / scales.reshape(shape), number), scales


def activation_scale(ends: Range, number: Number) -> tuple[np.float32, np.generic]:
    """Scale and zero point of an activation: symmetric for INT8 or E4M3, full range for UINT8."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    if number != UINT8:
        step = max(-low, high) / LARGEST[number]
        return np.float32(max(step, LEAST[number]) or 1), number.type(0)
    scale = np.float32((high - low) / 255 or 1)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def insert_qdq(
    graph: onnx.GraphProto,
    targets: Sequence[Target],
    ranges: Mapping[str, Range],
    number: Number,
    products: Collection[str] = (),
) -> None:
    """Insert Q/DQ pairs before the targets, and DQ behind their weights.

    Args:
        graph: Changed in place.
        targets: All layers that become INT8 or FP8.
        ranges: Ranges of all activations to quantize, and with UINT8 of the Convs' outputs.
        number: Of the activations: INT8, E4M3, or UINT8 with zero points and INT8 weights. Convs
            then get INT32 biases and quantized outputs, which ONNX Runtime needs to run them in
            INT8. TensorRT supports neither.
        products: Names of nodes that multiply two activations, which then read only pairs.
    """
    writer = _Writer(graph, ranges, number)
    by_name = {target.node: target for target in targets}
    outputs = {t.output for t in targets if writer.unsigned and t.op == "Conv"}
    for node in list(graph.node):
        for index, name in enumerate(node.input):
            if name in outputs:  # all its readers must read the pair, for the Conv to be fused
                node.input[index] = writer.pair(name)
        target = by_name.get(node.name)
        if target:
            node.input[0] = writer.pair(target.activation)
            writer.weigh(node, target)
        if node.name in products:
            node.input[:] = [writer.pair(name) for name in node.input]
        writer.nodes.append(node)
    edit.replace_nodes(graph, writer.nodes)


class _Writer:
    """Collects the nodes of the new graph, and adds the tensors that they read."""

    def __init__(self, graph: onnx.GraphProto, ranges: Mapping[str, Range], number: Number) -> None:
        self.graph, self.ranges, self.number = graph, ranges, number
        self.unsigned = number == UINT8
        self.weights = INT8 if self.unsigned else number
        self.tensors = edit.weights(graph)
        self.nodes: list[onnx.NodeProto] = []
        self.done: dict[str, str] = {}

    def add(self, name: str, values: Any) -> str:  # noqa: ANN401 - an array or a NumPy scalar
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.asarray(values), name)
            self.graph.initializer.append(self.tensors[name])
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def pair(self, name: str) -> str:
        """Name of the dequantized copy of an activation, which all its readers share."""
        if name not in self.done:
            scale, zero = activation_scale(self.ranges[name], self.number)
            scales = [self.add(f"{name}.scale", scale), self.add(f"{name}.zero", zero)]
            quantized = self.node("QuantizeLinear", [name, *scales], f"{name}.quantized")
            self.done[name] = self.node(
                "DequantizeLinear", [quantized, *scales], f"{name}.dequantized"
            )
        return self.done[name]

    def weigh(self, node: onnx.NodeProto, target: Target) -> None:
        """Make a layer read its quantized weight, and a UINT8 Conv its bias as INT32."""
        values = numpy_helper.to_array(self.tensors[target.weight])
        name, bias = target.weight, None
        least: NDArray[np.float32] | float = 0.0
        step = activation_scale(self.ranges[target.activation], self.number)[0]
        if self.unsigned and target.bias in self.tensors:
            name = f"{target.node}.weight"  # its scale depends on the bias
            bias = numpy_helper.to_array(self.tensors[target.bias])
            least = abs(bias) / (step * BIAS_LIMIT)
        output = f"{name}.dequantized"
        if output not in self.done:
            quantized, scales = quantize_weight(values, target.axis, least, self.weights)
            zeros = self.add(f"{name}.zero", np.zeros(scales.shape, self.weights))
            inputs = [self.add(f"{name}.quantized", quantized), self.add(f"{name}.scale", scales)]
            self.node("DequantizeLinear", [*inputs, zeros], output, axis=target.axis)
            self.done[output] = output
            if bias is not None:
                whole = np.rint(bias / (step * scales)).astype(np.int32)
                pieces = [self.add(f"{target.node}.bias.quantized", whole)]
                pieces.append(self.add(f"{target.node}.bias.scale", step * scales))
                self.node("DequantizeLinear", pieces, f"{target.node}.bias.int32", axis=0)
        node.input[1] = output
        if bias is not None:
            node.input[2] = f"{target.node}.bias.int32"
