from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from export.errors import GraphError
from export.precision import edit, half
from export.precision.edit import FLOAT, FLOAT16
from tests.export import graphs
from tests.export.conftest import KINDS

PRECISE = {
    "LayerNormalization", "Softmax", "AveragePool", "ReduceMean", "ReduceSum", "ReduceL2",
}  # fmt: skip


def small(text: str, **weights: NDArray[np.float32]) -> onnx.ModelProto:
    """A graph in ONNX's text format, with weights."""
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}')
    proto.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in weights.items()
    )
    return proto


def refer(proto: onnx.ModelProto, feed: NDArray[Any]) -> NDArray[np.float32]:
    """The answer in true FP16 arithmetic, where ONNX Runtime's CPU kernels may use FP32."""
    with np.errstate(all="ignore"):
        name, evaluator = proto.graph.input[0].name, ReferenceEvaluator(proto)
        answers: Any = evaluator.run(None, {name: feed})
        return np.asarray(answers[0])


def read_types(proto: onnx.ModelProto, ops: set[str]) -> set[int]:
    types = edit.element_types(proto)
    found = {types[node.input[0]] for node in proto.graph.node if node.op_type in ops}
    return found - {onnx.TensorProto.INT64}  # sums of masks


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_encoders(
    kind: str, side: str, encoders: Callable[[str], dict[str, graphs.Encoder]]
) -> None:
    encoder = encoders(kind)[side]
    before = encoder.proto.SerializeToString(deterministic=True)
    proto = half.to_fp16(encoder.proto, encoder.feeds)
    assert encoder.proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.input == encoder.proto.graph.input
    assert proto.graph.output[0].type.tensor_type.elem_type == FLOAT

    found = graphs.answer(proto, encoder.held_out)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    exact = graphs.answer(encoder.proto, encoder.held_out)
    assert graphs.cosines(found, exact).min() >= 0.9995
    assert not np.array_equal(found, exact)

    assert read_types(proto, PRECISE) == {FLOAT}
    assert read_types(proto, {"MatMul", "Gemm", "Conv"}) == {FLOAT16}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            assert all(weights[n].data_type == FLOAT16 for n in node.input if n in weights)
    for tensor in weights.values():
        values = numpy_helper.to_array(tensor)
        assert values.dtype.kind != "f" or (abs(values) <= half.MASKED).all()
    size, full = (sum(len(t.raw_data) for t in p.graph.initializer) for p in (proto, encoder.proto))
    assert size < 0.6 * full


@pytest.mark.parametrize("side", ["image", "text"])
def test_true_fp16_arithmetic(
    side: str, encoders: Callable[[str], dict[str, graphs.Encoder]]
) -> None:
    encoder = encoders("vit")[side]
    found = refer(half.to_fp16(encoder.proto), encoder.held_out)
    assert graphs.cosines(found, graphs.answer(encoder.proto, encoder.held_out)).min() >= 0.9995


NORMED = """g (float[n, 64] rows) => (float[n, 64] out) {
    scaled = Mul(rows, scale)
    normed = LayerNormalization<axis = -1>(scaled, weight, bias)
    length = ReduceL2<keepdims = 1>(normed, axes)
    out = Div(normed, length)
}"""


def normed() -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """LayerNorm of activations around 700, whose squares FP16 cannot hold."""
    proto = small(
        NORMED,
        scale=np.array([700], np.float32),
        weight=np.linspace(0.5, 1.5, 64, dtype=np.float32),
        bias=np.zeros(64, np.float32),
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "axes"))
    return proto, np.random.default_rng(3).normal(size=(5, 64)).astype(np.float32)


def everything_in_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    naive = onnx.ModelProto()
    naive.CopyFrom(proto)
    for tensor in naive.graph.initializer:
        if tensor.data_type == FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for item in (*naive.graph.input, *naive.graph.output):
        item.type.tensor_type.elem_type = FLOAT16
    return naive


def test_everything_in_fp16_breaks_where_this_does_not() -> None:
    proto, rows = normed()
    exact = graphs.answer(proto, rows)
    broken = refer(everything_in_fp16(proto), rows.astype(np.float16))
    assert not np.isfinite(broken).all() or graphs.cosines(broken, exact).min() < 0.5
    assert graphs.cosines(refer(half.to_fp16(proto), rows), exact).min() > 0.99999


PRODUCT = """g (float[n, 8] rows) => (float[n, 8] out) {
    product = MatMul(rows, weight)
    kept = Add(product, shift)
    last = MatMul(kept, second)
    out = Identity(last)
}"""


def product(peak: float, second: float) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    rng = np.random.default_rng(4)
    weight, other = (rng.uniform(0.5, 1, (8, 8)).astype(np.float32) for _ in range(2))
    shift = np.zeros(8, np.float32)
    proto = small(
        PRODUCT, weight=weight * np.float32(peak), shift=shift, second=other * np.float32(second)
    )
    return proto, rng.uniform(0.5, 1, (3, 8)).astype(np.float32)


@pytest.mark.parametrize(("peak", "second"), [(1e6, 1e-6), (1e-9, 1e9 / 64)])
def test_weights_that_fp16_cannot_hold_stay(peak: float, second: float) -> None:
    proto, rows = product(peak, second)
    exact = graphs.answer(proto, rows)
    found = half.to_fp16(proto, [rows])
    np.testing.assert_allclose(refer(found, rows), exact, rtol=2e-3)
    types = {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    assert types["weight"] == FLOAT


def test_activations_that_overflow_stay_when_samples_show_them() -> None:
    proto, rows = product(3e4, 1e-3)
    exact = graphs.answer(proto, rows)
    assert not np.isfinite(refer(half.to_fp16(proto), rows)).all()
    found = half.to_fp16(proto, [rows])
    np.testing.assert_allclose(refer(found, rows), exact, rtol=2e-3)


MASKED = """g (float[n, 4] scores) => (float[n, 4] out) {
    once = Add(scores, causal)
    low = Where(padding, lowest, zero)
    twice = Add(once, low)
    least = Max(twice, floor)
    shares = Softmax<axis = -1>(twice)
    out = Identity(shares)
}"""


def test_masks_become_finite_and_hide_as_before() -> None:
    proto = small(
        MASKED,
        causal=np.array([[0, 0, 0, -np.inf]], np.float32),
        lowest=np.array(np.finfo(np.float32).min),
        zero=np.array(0, np.float32),
        floor=np.array(-np.inf, np.float32),
    )
    padding = np.array([[False, False, True, True]])
    proto.graph.initializer.append(numpy_helper.from_array(padding, "padding"))
    scores = np.array([[1, 2, 3, 4], [0, 0, 60, 60]], np.float32)
    found = refer(half.to_fp16(proto), scores)
    np.testing.assert_allclose(found, refer(proto, scores), atol=1e-3)
    assert (found[:, 2:] == 0).all()
    np.testing.assert_allclose(graphs.answer(half.to_fp16(proto), scores), found, atol=1e-3)


MADE = """g (float[n, 8] rows) => (float[n, 8] out) {
    two = Constant<value_float = 2.0>()
    size = Shape(rows)
    zeros = ConstantOfShape(size)
    shifted = Add(rows, zeros)
    scaled = Mul(shifted, two)
    out = Identity(scaled)
}"""


def test_constants_without_a_typed_value_stay_fp32() -> None:
    rows = np.random.default_rng(5).normal(size=(3, 8)).astype(np.float32)
    found = graphs.answer(half.to_fp16(small(MADE)), rows)
    np.testing.assert_allclose(found, 2 * rows, rtol=1e-3)


def test_attention_is_scaled_once(encoders: Callable[[str], dict[str, graphs.Encoder]]) -> None:
    encoder = encoders("vit")["text"]
    proto = half.to_fp16(encoder.proto)
    before, after = (
        sum(node.op_type == "Mul" for node in p.graph.node) for p in (encoder.proto, proto)
    )
    assert after == before - 2  # one less in each of two layers


def test_weights_stored_as_fp16_are_understood(
    encoders: Callable[[str], dict[str, graphs.Encoder]],
) -> None:
    encoder = encoders("vit")["image"]
    rounded = onnx.ModelProto()
    rounded.CopyFrom(encoder.proto)
    for tensor in rounded.graph.initializer:
        if tensor.data_type == FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    compact = half.compact(rounded)
    assert sum(node.op_type == "Cast" for node in compact.graph.node) > 4
    found, exact = (
        graphs.answer(half.to_fp16(proto), encoder.held_out) for proto in (compact, rounded)
    )
    np.testing.assert_allclose(found, exact, atol=1e-6)


SHARED = """g (float[n, 16] rows) => (float[n, 16] out) {
    product = MatMul(rows, weight)
    squares = Pow(weight, two)
    other = MatMul(rows, squares)
    sum = Add(product, other)
    out = Identity(sum)
}"""


def test_a_weight_in_both_precisions_can_be_compacted() -> None:
    rng = np.random.default_rng(7)
    weight = rng.normal(size=(16, 16)).astype(np.float16).astype(np.float32)
    proto = half.to_fp16(small(SHARED, weight=weight, two=np.array(2, np.float32)))
    rows = rng.normal(size=(3, 16)).astype(np.float32)
    compact = half.compact(proto)
    onnx.checker.check_model(compact)
    np.testing.assert_array_equal(graphs.answer(compact, rows), graphs.answer(proto, rows))


def test_large_graphs_run_from_files(
    encoders: Callable[[str], dict[str, graphs.Encoder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders("vit")["image"]
    exact = graphs.answer(encoder.proto, encoder.held_out)
    monkeypatch.setattr(edit, "IN_MEMORY_BYTES", 1000)
    np.testing.assert_array_equal(graphs.answer(encoder.proto, encoder.held_out), exact)
    assert encoder.proto.graph.initializer[0].raw_data


def test_what_cannot_be_retyped_is_refused() -> None:
    proto, _ = product(1, 1)
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(GraphError, match="weights are not loaded"):
        half.to_fp16(proto)
    branching = small(
        """g (float[n] rows, bool which) => (float[n] out) {
            out = If(which) <then_branch = a () => (float[n] x) { x = Neg(rows) },
                             else_branch = b () => (float[n] y) { y = Abs(rows) }>
        }"""
    )
    with pytest.raises(GraphError, match="functions or branches"):
        half.to_fp16(branching)
