"""The layers of a graph that can run in INT8 or FP8."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeGuard

import numpy as np
import onnx
from onnx import numpy_helper

from export.precision import edit
from export.precision.edit import FLOAT

FP8_CHANNELS = 16  # TensorRT multiplies FP8 convolutions in groups of 16 channels


@dataclass(frozen=True, slots=True)
class Target:
    """One layer: a product of an activation and a constant FP32 weight."""

    node: str
    op: Literal["MatMul", "Conv"]
    activation: str  # value name
    weight: str  # initializer name; [in, out] of a MatMul, [out, in / groups, ...] of a Conv
    bias: str | None  # initializer name, of a Conv
    output: str  # value name of the product, or that of a Relu that is its only reader

    @property
    def axis(self) -> int:
        """The weight's axis of output channels."""
        return 1 if self.op == "MatMul" else 0


def split_gemms(proto: onnx.ModelProto, excluded: Collection[str] = ()) -> onnx.ModelProto:
    """Copy a graph for rewriting, with MatMul and Add in place of each Gemm of a constant weight.

    ONNX Runtime runs a quantized MatMul in INT8 with an FP32 bias, but a Gemm only with an INT32
    bias, which TensorRT does not support.

    Raises:
        GraphError: The graph has unsupported parts.
    """
    copy = edit.prepare(proto)
    graph, nodes = copy.graph, []
    tensors = edit.weights(graph)
    for node in graph.node:
        given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        scaled = given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0
        fixed = node.op_type == "Gemm" and _is_weight(tensors.get(node.input[1]))
        if not fixed or node.name in excluded or scaled or given.get("transA"):
            nodes.append(node)
            continue
        weight = node.input[1]
        if given.get("transB"):
            weight = f"{weight}.T"
            if weight not in tensors:
                values = np.ascontiguousarray(numpy_helper.to_array(tensors[node.input[1]]).T)
                tensors[weight] = numpy_helper.from_array(values, weight)
                graph.initializer.append(tensors[weight])
        bias = node.input[2] if len(node.input) > 2 else ""
        product = f"{node.output[0]}.product" if bias else node.output[0]
        make = onnx.helper.make_node
        nodes.append(make("MatMul", [node.input[0], weight], [product], node.name))
        if bias:
            nodes.append(make("Add", [product, bias], [node.output[0]], f"{node.name}.bias"))
    edit.replace_nodes(graph, nodes)
    return copy


def _is_weight(tensor: onnx.TensorProto | None) -> TypeGuard[onnx.TensorProto]:
    return tensor is not None and tensor.data_type == FLOAT and len(tensor.dims) >= 2


def find_targets(
    proto: onnx.ModelProto, excluded: Collection[str] = (), *, fp8: bool = False
) -> tuple[Target, ...]:
    """List layers in the order of the graph: MatMuls and, in convolutional encoders, Convs.

    An encoder with a single convolution is a vision transformer; that layer makes the patches, is
    cheap and reads raw pixels, so it stays FP32. `fp8` also leaves out convolutions that TensorRT
    cannot run in FP8.
    """
    graph, tensors = proto.graph, edit.weights(proto.graph)
    convolutional = sum(node.op_type == "Conv" for node in graph.node) > 1
    readers = Counter(name for node in graph.node for name in node.input)
    relus = {n.input[0]: n.output[0] for n in graph.node if n.op_type == "Relu"}
    targets = []
    for node in graph.node:
        weight = tensors.get(node.input[1]) if node.op_type in ("MatMul", "Conv") else None
        if not _is_weight(weight) or node.name in excluded or node.input[0] in tensors:
            continue
        source, output = node.input[0], node.output[0]
        if node.op_type == "MatMul":
            if len(weight.dims) == 2:
                targets.append(Target(node.name, "MatMul", source, weight.name, None, output))
        elif convolutional and not (fp8 and any(size % FP8_CHANNELS for size in weight.dims[:2])):
            bias = node.input[2] if len(node.input) > 2 else None
            alone = readers[output] == 1
            quantized = relus.get(output, output) if alone else output
            targets.append(Target(node.name, "Conv", source, weight.name, bias, quantized))
    return tuple(targets)


def find_products(proto: onnx.ModelProto) -> tuple[onnx.NodeProto, ...]:
    """The products of two activations: attention's queries by keys, and weights by values."""
    tensors = edit.weights(proto.graph)
    return tuple(
        node
        for node in proto.graph.node
        if node.op_type == "MatMul" and not any(name in tensors for name in node.input)
    )
