"""Counts the operations of an ONNX graph's products and convolutions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

Shape = tuple[int, ...]
COUNTED = ("MatMul", "Gemm", "Conv")


def flops(path: Path, shape: Sequence[int]) -> int | None:
    """Count the additions and multiplications of MatMul, Gemm and Conv.

    Args:
        path: File of the graph, which has one input.
        shape: Shape of the input.

    Returns:
        The number, or None if a shape depends on values, as in packed text.
    """
    model = onnx.load(path, load_external_data=False)
    del model.graph.value_info[:]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, shape, strict=True):
        dim.dim_value = size
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, Shape | None] = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = _known(value)
    counts = [_count(node, shapes) for node in graph.node if node.op_type in COUNTED]
    return None if None in counts else sum(count for count in counts if count is not None)


def _known(value: onnx.ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    complete = tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
    return tuple(dim.dim_value for dim in dims) if complete else None


def _count(node: onnx.NodeProto, shapes: Mapping[str, Shape | None]) -> int | None:
    made, left, right = (shapes.get(n) for n in (node.output[0], *node.input[:2]))
    if made is None or left is None or right is None:
        return None
    if node.op_type == "Conv":
        return 2 * math.prod(made) * math.prod(right[1:])
    transposed = any(each.name == "transA" and each.i for each in node.attribute)
    return 2 * math.prod(made) * left[0 if transposed else -1]
