"""A graph's inputs and outputs against a configuration."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from server.backends.errors import ConfigError
from server.backends.onnxruntime.signature import signature_of
from server.backends.signature import Signature, TensorSpec
from tests.server import tiny


def signature(batch: str | int = "n") -> Signature:
    return signature_of(ort.InferenceSession(tiny.image_graph(batch).SerializeToString()))


def config(**changes: Any) -> dict[str, Any]:
    return {
        "max_batch_size": 8,
        "input": [{"name": "pixels", "data_type": "TYPE_UINT8", "dims": [2, 2, 3]}],
        "output": [{"name": "vector", "data_type": "TYPE_FP32", "dims": [12]}],
    } | changes


def test_the_graph_is_read() -> None:
    found = signature()
    assert found.inputs == (TensorSpec("pixels", "TYPE_UINT8", (-1, 2, 2, 3)),)
    assert found.outputs == (TensorSpec("vector", "TYPE_FP32", (-1, 12)),)


def test_a_matching_configuration_passes() -> None:
    signature().check(config())
    signature(2).check(
        config(
            max_batch_size=0,
            input=[{"name": "pixels", "data_type": "TYPE_UINT8", "dims": [2, 2, 2, 3]}],
            output=[{"name": "vector", "data_type": "TYPE_FP32", "dims": [2, 12]}],
        )
    )


def entry(name: str, kind: str, dims: list[int]) -> list[dict[str, Any]]:
    return [{"name": name, "data_type": kind, "dims": dims}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": entry("image", "TYPE_UINT8", [2, 2, 3])}, "input 'pixels' of the graph is not"),
        ({"output": entry("vec", "TYPE_FP32", [12])}, "output 'vec' is not in the graph, which"),
        ({"input": entry("pixels", "TYPE_FP32", [2, 2, 3])}, "TYPE_FP32, the graph TYPE_UINT8"),
        ({"input": entry("pixels", "TYPE_UINT8", [4, 4, 3])}, r"says shape \[-1, 4, 4, 3\]"),
        ({"output": entry("vector", "TYPE_FP32", [-1])}, r"the graph \[-1, 12\]"),
        ({"max_batch_size": 0}, r"says shape \[2, 2, 3\]"),
    ],
)
def test_a_difference_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        signature().check(config(**changes))


def test_an_input_is_checked_for_type_and_shape() -> None:
    spec = TensorSpec("pixels", "TYPE_UINT8", (-1, 2, 2, 3))
    assert spec.problem(np.zeros((5, 2, 2, 3), np.uint8)) == ""
    assert "expected TYPE_UINT8, got float32" in spec.problem(np.zeros((5, 2, 2, 3), np.float32))
    assert "got [5, 3]" in spec.problem(np.zeros((5, 3), np.uint8))
