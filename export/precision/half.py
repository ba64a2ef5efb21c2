"""Converts an FP32 graph to FP16 with explicit Casts.

TensorRT builds strongly typed networks from it, and ONNX Runtime runs it directly. Layers that sum
or square many numbers stay in FP32, since FP16 overflows at 65504 and has only 11 bits.
"""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.precision import edit
from export.precision.edit import FLOAT, FLOAT16

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_normal)  # values below lose bits, then vanish
HEADROOM = LARGEST / 2  # of activations: users' inputs may exceed the samples
MASKED = 1e4  # replaces infinity in masks: exp(-1e4) is 0, and the sum of two still fits FP16
INFINITE = 1e8  # larger than any weight; masks use -inf, -1e9 or the lowest FP32
COMPACT_ELEMENTS = 256  # smaller tensors are not worth a Cast
ROUNDING = 1e-3  # relative L2 error allowed of a weight; rounding to 11 bits makes 2e-4

_FP32_OPS = frozenset((
    "AveragePool", "BatchNormalization", "CumSum", "GlobalAveragePool", "GlobalLpPool",
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax",
    "LpNormalization", "LpPool", "Pow", "Range", "ReduceL1", "ReduceL2", "ReduceLogSumExp",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "Resize", "RMSNormalization", "Softmax", "Sqrt",
    "Constant", "ConstantOfShape", "EyeLike",  # whose type is an attribute, or given by none
))  # fmt: skip
_BOUNDS = frozenset(("Clip", "Max", "Min"))  # their infinities mean "no bound", not "masked"


def to_fp16(proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]] = ()) -> onnx.ModelProto:
    """Convert weights and activations to FP16; inputs and outputs keep their types.

    LayerNorm, softmax, pooling, the final L2 norm and the arithmetic on pixels stay FP32, as do
    layers whose weights FP16 cannot hold, and those whose activations on the feeds, batches of the
    graph's input, come near 65504 or are all below 6e-5. Masks become finite.

    Raises:
        GraphError: The graph cannot be retyped.
    """
    half = edit.prepare(proto)
    _bound_masks(half.graph)
    _merge_scales(half.graph)
    types = edit.element_types(half)
    kept = _kept(half.graph, types) | _overflowing(half, types, feeds)
    _Retyping(half.graph, types, kept).apply()
    del half.graph.value_info[:]
    return half


def _bound_masks(graph: onnx.GraphProto) -> None:
    bounds = {name for n in graph.node if n.op_type in _BOUNDS for name in n.input}
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT and tensor.name not in bounds:
            _bound(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "ConstantOfShape" and attribute.t.data_type == FLOAT:
                _bound(attribute.t)


def _bound(tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor)
    if (abs(values) >= INFINITE).any():
        finite = np.where(abs(values) >= INFINITE, np.copysign(MASKED, values), values)
        tensor.CopyFrom(numpy_helper.from_array(finite.astype(np.float32), tensor.name))


def _merge_scales(graph: onnx.GraphProto) -> None:
    """Scale attention once: `(q * s) @ (k * s)` becomes `(q * s * s) @ k`.

    torch's exporter writes the former. In FP16, ONNX Runtime 1.31 crashes on it when it moves the
    transpose of k past the product (MatmulTransposeFusion, on a CPU).
    """
    tensors = edit.weights(graph)
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        left, right = ([makers.get(n) for n in node.input] + [None, None])[:2]
        if node.op_type != "MatMul" or left is None or right is None or left is right:
            continue
        if left.op_type != "Mul" or right.op_type != "Mul" or left.input[1] != right.input[1]:
            continue
        scale = tensors.get(left.input[1])
        if scale is None or np.prod(scale.dims) != 1 or readers[left.output[0]] != 1:
            continue
        square = f"{scale.name}.squared"
        if square not in tensors:
            values = numpy_helper.to_array(scale).astype(np.float64) ** 2
            tensors[square] = numpy_helper.from_array(values.astype(np.float32), square)
            graph.initializer.append(tensors[square])
        left.input[1], node.input[1] = square, right.input[0]
    edit.drop_unread(graph)


def _fits(tensor: onnx.TensorProto) -> bool:
    """Whether FP16 can represent a weight without overflow or a large rounding error."""
    values = numpy_helper.to_array(tensor)
    if not values.size:
        return True
    if not np.isfinite(values).all() or abs(values).max() > LARGEST:
        return False
    lost = values - values.astype(np.float16).astype(np.float32)
    return bool(np.linalg.norm(lost) <= ROUNDING * np.linalg.norm(values))


def _kept(graph: onnx.GraphProto, types: dict[str, int]) -> set[str]:
    """Names of the nodes that stay FP32 for any activations."""
    outputs = {item.name for item in graph.output}
    unfit = {t.name for t in graph.initializer if t.data_type == FLOAT and not _fits(t)}
    kept = {
        node.name
        for node in graph.node
        if node.op_type in _FP32_OPS
        or unfit.intersection(node.input)
        or outputs.intersection(node.output)
        or (node.op_type == "Mul" and node.input[0] == node.input[1])  # squares may overflow
    }
    return kept | _head(graph, types) | _norms(graph, kept)


def _head(graph: onnx.GraphProto, types: dict[str, int]) -> set[str]:
    """Nodes of the arithmetic on pixels, up to the first convolution or product."""
    if types[graph.input[0].name] != onnx.TensorProto.UINT8:
        return set()
    head, reached = set(), {graph.input[0].name}
    for node in graph.node:
        real = any(types[name] in (FLOAT, onnx.TensorProto.UINT8) for name in node.output)
        layer = node.op_type in ("Conv", "MatMul", "Gemm")
        if real and not layer and reached.intersection(node.input):
            head.add(node.name)
            reached.update(node.output)
    return head


def _norms(graph: onnx.GraphProto, kept: set[str]) -> set[str]:
    """Nodes after the last ReduceL2, and divisions by and transposes of FP32 layers' outputs."""
    last = max((i for i, n in enumerate(graph.node) if n.op_type == "ReduceL2"), default=None)
    reached: set[str] = set()
    found: set[str] = set()
    precise: set[str] = set()
    for index, node in enumerate(graph.node):
        if index == last or reached.intersection(node.input):
            reached.update(node.output)
            found.add(node.name)
        if node.op_type == "Div" and node.input[1] in precise:
            found.add(node.name)
        # The Cast after an FP32 layer goes behind its transpose: before Transpose and MatMul it
        # causes the crash of _merge_scales.
        if node.op_type == "Transpose" and node.input[0] in precise:
            found.add(node.name)
        if node.name in kept or node.name in found:
            precise.update(node.output)
    return found


def _overflowing(
    proto: onnx.ModelProto, types: dict[str, int], feeds: Sequence[NDArray[Any]]
) -> set[str]:
    """Nodes that read or write values near the limits of FP16."""
    if not len(feeds):
        return set()
    names = [n for node in proto.graph.node for n in node.output if types.get(n) == FLOAT]
    found = edit.extremes(proto, feeds, names)
    peaks = {name: max(map(abs, ends)) for name, ends in found.items()}
    unfit = {n for n, peak in peaks.items() if peak and not SMALLEST <= peak <= HEADROOM}
    return {n.name for n in proto.graph.node if unfit.intersection((*n.input, *n.output))}


def compact(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph, storing FP32 weights as FP16 with a Cast where every value stays bit-equal.

    Weights that were FP16 in the checkpoint halve in size; ONNX Runtime folds the Cast on load.
    """
    copy = deepcopy(proto)
    for tensor in copy.graph.initializer:
        if tensor.data_type != FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            small = values.astype(np.float16)
        same = small.astype(np.float32).view(np.uint32) == values.view(np.uint32)
        if values.size < COMPACT_ELEMENTS or not same.all():
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(small, f"{name}.compact"))
        cast = onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=FLOAT)
        copy.graph.node.insert(0, cast)
    return copy


class _Retyping:
    """Rewrites a graph node by node, adding each Cast before the first node that needs it."""

    def __init__(self, graph: onnx.GraphProto, types: dict[str, int], kept: set[str]) -> None:
        self.graph, self.types, self.kept = graph, types, kept
        self.tensors = edit.weights(graph)
        inputs = [item.name for item in graph.input]
        # The type that floats are computed in.
        self.native = dict.fromkeys((*self.tensors, *inputs), FLOAT)
        self.copies: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def apply(self) -> None:
        for node in self.graph.node:
            wanted = FLOAT if node.name in self.kept else FLOAT16
            if node.op_type not in ("Shape", "Size", "Cast"):  # these read any type
                for index, name in enumerate(node.input):
                    if self.types.get(name) == FLOAT:
                        node.input[index] = self._read(name, wanted)
            floats = [name for name in node.output if self.types.get(name) == FLOAT]
            self.native.update(dict.fromkeys(floats, wanted))
            if floats and wanted == FLOAT16 and node.op_type == "Cast":
                [to] = (each for each in node.attribute if each.name == "to")
                to.i = FLOAT16
            self.nodes.append(node)
        edit.replace_nodes(self.graph, self.nodes)

    def _read(self, name: str, wanted: int) -> str:
        """Name of a value in the given type; adds a Cast or a converted weight if needed."""
        if self.native[name] == wanted:
            return name
        copy = f"{name}.{'fp16' if wanted == FLOAT16 else 'fp32'}"
        if (name, wanted) not in self.copies:
            self.copies[name, wanted] = copy
            if name in self.tensors:
                values = numpy_helper.to_array(self.tensors[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(values, copy))
            else:
                cast = onnx.helper.make_node("Cast", [name], [copy], f"{copy}.cast", to=wanted)
                self.nodes.append(cast)
        return copy
