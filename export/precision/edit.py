"""Reads, runs and rewrites ONNX graphs in memory, for FP16, INT8 and FP8."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from export.errors import GraphError, brief
from export.precision.processor import session_options

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
IN_MEMORY_BYTES = 1_800_000_000  # protobuf's limit is 2 GiB; larger graphs run from files
SMALL_BYTES = 4096  # shape inference reads the values of small tensors: shapes, axes, pads
ROWS = 4  # items per run; all observed activations stay in memory


def prepare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph for rewriting, with compacted weights restored and every node named.

    Raises:
        GraphError: The graph has unsupported parts.
    """
    copy = deepcopy(proto)
    if copy.functions or any(a.HasField("g") for n in copy.graph.node for a in n.attribute):
        raise GraphError("the graph has functions or branches, which cannot change precision")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in copy.graph.initializer):
        raise GraphError("the graph's weights are not loaded: read it with `onnx.load`")
    for index, node in enumerate(copy.graph.node):
        node.name = node.name or f"{node.op_type}.{index}"
    _lift_constants(copy.graph)
    return copy


def weights(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace all nodes, and drop initializers that no node reads."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes without effect on the outputs, and their weights."""
    wanted, nodes = {item.name for item in graph.output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    replace_nodes(graph, nodes[::-1])


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Turn `Constant` nodes and `Cast(FP16 weight) -> FP32` into initializers."""
    tensors, nodes = weights(graph), []
    for node in graph.node:
        lifted = None
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            lifted = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Cast" and onnx.helper.get_node_attr_value(node, "to") == FLOAT:
            tensor = tensors.get(node.input[0])
            if tensor is not None and tensor.data_type == FLOAT16:
                lifted = numpy_helper.to_array(tensor).astype(np.float32)
        if lifted is None:
            nodes.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(lifted, node.output[0]))
    if len(nodes) < len(graph.node):
        replace_nodes(graph, nodes)


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Infer the element type of every value, by name (`onnx.TensorProto.FLOAT` and so on).

    Shape inference runs without the values of large weights, so that it works at any size.

    Raises:
        GraphError: The type of a value is unknown.
    """
    graph, skeleton = proto.graph, onnx.ModelProto(ir_version=proto.ir_version)
    skeleton.opset_import.extend(proto.opset_import)
    skeleton.graph.name = graph.name
    for field in ("node", "input", "output"):
        getattr(skeleton.graph, field).extend(getattr(graph, field))
    for tensor in graph.initializer:
        if len(tensor.raw_data) <= SMALL_BYTES:
            skeleton.graph.initializer.append(tensor)
        else:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            skeleton.graph.input.append(info)
    found = onnx.shape_inference.infer_shapes(skeleton).graph
    infos = (*found.value_info, *found.input, *found.output)
    types: dict[str, int] = {info.name: info.type.tensor_type.elem_type for info in infos}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    for node in graph.node:
        for name in filter(None, node.output):
            if not types.get(name):
                raise GraphError(f"{node.op_type} {node.name}: the type of {name} is unknown")
    return types


@contextlib.contextmanager
def session(proto: onnx.ModelProto) -> Iterator[onnxruntime.InferenceSession]:
    """Open a graph of any size on ONNX Runtime's CPU provider.

    Raises:
        GraphError: ONNX Runtime refuses it.
    """
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    options, providers = session_options(), ["CPUExecutionProvider"]
    with tempfile.TemporaryDirectory(prefix="openclip-export-") as folder:
        if size > IN_MEMORY_BYTES:
            path = Path(folder, "model.onnx")
            copy = deepcopy(proto)  # since saving to two files empties the tensors
            onnx.save_model(copy, path, save_as_external_data=True, location="model.onnx.data")
            model: bytes | Path = path
        else:
            model = proto.SerializeToString()
        try:
            opened = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise GraphError(f"ONNX Runtime refuses the graph: {brief(error)}") from error
        yield opened


def observe(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], names: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Run a graph and yield values of these names, for a few items of the feeds at a time.

    Feeds are batches of the graph's one input, of any size; names are not those of inputs or
    weights.
    """
    copy, wanted = deepcopy(proto), list(dict.fromkeys(names))
    outputs = {item.name for item in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in outputs)
    yield from _run(copy, feeds, wanted)


def extremes(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest element of inner FP32 values over all feeds."""
    copy, wanted = deepcopy(proto), list(dict.fromkeys(names))
    for name in wanted:
        for op in ("ReduceMin", "ReduceMax"):
            output = f"{name}.{op}"
            copy.graph.node.append(onnx.helper.make_node(op, [name], [output], keepdims=0))
            copy.graph.output.append(onnx.ValueInfoProto(name=output))
    ends = [f"{name}.{op}" for op in ("ReduceMin", "ReduceMax") for name in wanted]
    runs = [[float(run[end]) for end in ends] for run in _run(copy, feeds, ends)]
    if not runs:
        raise GraphError("no samples were given to run the graph on")
    low, high = np.split(np.array(runs), 2, axis=1)  # [runs, names] each
    ranges = zip(low.min(0).tolist(), high.max(0).tolist(), strict=True)
    return dict(zip(wanted, ranges, strict=True))


def _run(
    proto: onnx.ModelProto, feeds: Sequence[NDArray[Any]], wanted: list[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    with session(proto) as opened:
        feed_name = opened.get_inputs()[0].name
        for feed in feeds:
            for start in range(0, len(feed), ROWS):
                values = opened.run(wanted, {feed_name: feed[start : start + ROWS]})
                yield dict(zip(wanted, map(np.asarray, values), strict=True))
