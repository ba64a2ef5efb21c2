"""Tiny ONNX models in a model repository, laid out as the exporter does."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = 10
TABLE = np.arange(VOCABULARY * 3, dtype=np.float32).reshape(VOCABULARY, 3)
FLOAT, INT32, UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8


def image_graph(batch: str | int = "n") -> onnx.ModelProto:
    """UINT8 [n, 2, 2, 3] pixels to FP32 [n, 12] vector: each pixel halved."""
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=FLOAT),
        helper.make_node("Mul", ["floats", "half"], ["halved"]),
        helper.make_node("Flatten", ["halved"], ["vector"]),
    ]
    return _model(
        nodes, [half], ("pixels", UINT8, [batch, 2, 2, 3]), ("vector", FLOAT, [batch, 12])
    )


def text_graph(length: int | str = 4) -> onnx.ModelProto:
    """INT32 [n, length] ids to FP32 [n, 3] vector: the mean of TABLE's rows."""
    table = numpy_helper.from_array(TABLE, "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["vector"], axes=[1], keepdims=0),
    ]
    return _model(nodes, [table], ("ids", INT32, ["n", length]), ("vector", FLOAT, ["n", 3]))


def _model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    source: tuple[str, int, list[str | int]],
    result: tuple[str, int, list[str | int]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*source)],
        [helper.make_tensor_value_info(*result)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


IMAGE_IO = """
input [{ name: "pixels" data_type: TYPE_UINT8 dims: [ 2, 2, 3 ] }]
output [{ name: "vector" data_type: TYPE_FP32 dims: [ 12 ] }]
"""
TEXT_IO = """
input [{ name: "ids" data_type: TYPE_INT32 dims: [ 4 ] }]
output [{ name: "vector" data_type: TYPE_FP32 dims: [ 3 ] }]
"""
ONE_INSTANCE = "instance_group [{ count: 1 kind: KIND_CPU }]\n"
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 200000 }\n"


def parameters(**values: str) -> str:
    """``parameters`` of a config.pbtxt."""
    return "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        for key, value in values.items()
    )


def add_model(
    repository: Path, name: str, graph: onnx.ModelProto | bytes | None, config: str
) -> None:
    """Write one Triton model; ``graph`` None leaves the file out."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    text = f'name: "{name}"\nbackend: "onnxruntime"\n{config}'
    (folder.parent / "config.pbtxt").write_text(text)
    if graph is not None:
        data = graph if isinstance(graph, bytes) else graph.SerializeToString()
        (folder / "model.onnx").write_bytes(data)


def add_manifest(
    repository: Path, model_id: str, image: str, texts: Sequence[tuple[str, int]]
) -> None:
    """Publish a model."""
    entries = [{"name": name, "length": length} for name, length in texts]
    manifest = {"schema_version": 1, "triton": {"image": {"name": image}, "text": entries}}
    (repository / f"{model_id}.manifest.json").write_text(json.dumps(manifest))


def add_demo(
    repository: Path,
    model_id: str = "demo",
    image: str = "",
    text: str = "",
) -> None:
    """Publish a whole working model; ``image`` and ``text`` are added to the configurations."""
    common = "max_batch_size: 8\n" + ONE_INSTANCE
    add_model(repository, f"{model_id}.image", image_graph(), common + IMAGE_IO + image)
    add_model(repository, f"{model_id}.text-4", text_graph(), common + TEXT_IO + text)
    add_manifest(repository, model_id, f"{model_id}.image", [(f"{model_id}.text-4", 4)])
