from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpu_check.flops import flops

FLOAT = TensorProto.FLOAT


def save(path: Path, nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]) -> Path:
    """A graph from `x`, float32 [n, 3, 8, 8], to `y`, with weights of these shapes."""
    weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items()]
    ends = [numpy_helper.from_array(np.array([0, -1]), "flat")]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [*weights, *ends],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_products_and_convolutions_are_counted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], strides=[2, 2], group=1),  # [n, 5, 4, 4]
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "flat"], ["f"]),  # [n, 80]
        helper.make_node("Gemm", ["f", "gemm"], ["g"], transB=1),  # [n, 7]
        helper.make_node("MatMul", ["g", "matmul"], ["y"]),  # [n, 2]
    ]
    shapes = {"kernel": (5, 3, 2, 2), "gemm": (7, 80), "matmul": (7, 2)}
    path = save(tmp_path / "g.onnx", nodes, shapes)
    once = 2 * (5 * 4 * 4 * 3 * 2 * 2 + 7 * 80 + 2 * 7)
    assert flops(path, (1, 3, 8, 8)) == once
    assert flops(path, (4, 3, 8, 8)) == 4 * once


def test_a_transposed_factor_has_its_depth_first(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),  # [n, 192]
        helper.make_node("Gemm", ["f", "wide"], ["y"], transA=1),  # [192, 6]
    ]
    path = save(tmp_path / "g.onnx", nodes, {"wide": (2, 6)})
    assert flops(path, (2, 3, 8, 8)) == 2 * 192 * 6 * 2


def test_groups_of_a_convolution_count_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "kernel"], ["y"], group=3)]
    path = save(tmp_path / "g.onnx", nodes, {"kernel": (3, 1, 1, 1)})
    assert flops(path, (1, 3, 8, 8)) == 2 * 3 * 8 * 8


def test_shapes_that_depend_on_values_are_not_counted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),  # [4, unknown]
        helper.make_node("Cast", ["places"], ["floats"], to=FLOAT),
        helper.make_node("Transpose", ["floats"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
    ]
    path = save(tmp_path / "g.onnx", nodes, {"w": (4, 2)})
    assert flops(path, (1, 3, 8, 8)) is None
