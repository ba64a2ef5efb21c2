from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from export.errors import GraphError
from export.precision import edit
from export.precision.edit import FLOAT
from export.precision.insert import INT8, UINT8, activation_scale, quantize_weight
from export.precision.quantize import quantize
from export.precision.ranges import Method
from export.precision.recipe import DEFAULT_CPU_FORM, Form, Recipe, recipes
from export.precision.sensitivity import sensitivity
from export.precision.smooth import smooth
from tests.export.graphs import Encoder, answer, cosines

FORMS: tuple[Form, ...] = ("qdq", "uint8")
METHODS: tuple[Method, ...] = get_args(Method)
PLAIN = Recipe("qdq", "minmax")


@pytest.fixture
def image(encoders: Callable[[str], dict[str, Encoder]]) -> Encoder:
    return encoders("vit")["image"]


def values_of(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def nodes_of(proto: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == op]


def mean_cosine(proto: onnx.ModelProto, encoder: Encoder) -> float:
    found, exact = (answer(p, encoder.held_out) for p in (proto, encoder.proto))
    return float(cosines(found, exact).mean())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_answers_stay_close(
    kind: str, side: str, form: Form, encoders: Callable[[str], dict[str, Encoder]]
) -> None:
    encoder = encoders(kind)[side]
    before = encoder.proto.SerializeToString(deterministic=True)
    proto = quantize(encoder.proto, encoder.feeds, Recipe(form, "minmax"))
    assert encoder.proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(proto, full_check=True)
    assert 0.99 <= mean_cosine(proto, encoder) < 1
    assert proto.graph.input == encoder.proto.graph.input
    assert proto.graph.output == encoder.proto.graph.output


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_its_own_ranges(method: Method, image: Encoder) -> None:
    proto = quantize(image.proto, image.feeds, Recipe("qdq", method))
    assert mean_cosine(proto, image) >= 0.99
    again = quantize(image.proto, image.feeds, Recipe("qdq", method))
    assert proto.SerializeToString(deterministic=True) == again.SerializeToString(
        deterministic=True
    )
    if method != "minmax":
        wide, narrow = values_of(quantize(image.proto, image.feeds, PLAIN)), values_of(proto)
        scales = [node.input[1] for node in nodes_of(proto, "QuantizeLinear")]
        assert all(narrow[name] <= wide[name] for name in scales)
        assert any(narrow[name] < wide[name] for name in scales)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_qdq_is_what_tensorrt_takes(
    kind: str, encoders: Callable[[str], dict[str, Encoder]]
) -> None:
    encoder = encoders(kind)["image"]
    encoder = biased(encoder) if kind == "resnet" else encoder
    proto = quantize(encoder.proto, encoder.feeds, PLAIN)
    values, types = values_of(proto), edit.element_types(proto)
    makers = {name: node for node in proto.graph.node for name in node.output}
    pairs, dequantized = nodes_of(proto, "QuantizeLinear"), nodes_of(proto, "DequantizeLinear")
    for node in (*pairs, *dequantized):
        scale, zero = values[node.input[1]], values[node.input[2]]
        assert scale.dtype == np.float32
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
    assert all(values[node.input[1]].shape == () for node in pairs)
    layers = [n for op in ("MatMul", "Conv") for n in nodes_of(proto, op)]
    quantized = [n for n in layers if types[n.input[1]] == FLOAT and n.input[1] in makers]
    weighed = [makers[n.input[1]] for n in quantized if makers[n.input[1]] in dequantized]
    assert len(weighed) >= (9 if kind == "vit" else 20)
    for node in weighed:
        weight, axis = values[node.input[0]], node.attribute[0].i
        assert weight.dtype == np.int8
        assert axis == (1 if weight.ndim == 2 else 0)
        assert values[node.input[1]].shape == (weight.shape[axis],)
        others = tuple(n for n in range(weight.ndim) if n != axis)
        assert set(abs(weight.astype(int)).max(axis=others)) <= {0, 127}
    assert not any(v.dtype == np.int32 for v in values.values())  # biases are FP32
    assert not nodes_of(proto, "Gemm")


def test_patches_stay_fp32_and_convolutional_encoders_do_not(
    encoders: Callable[[str], dict[str, Encoder]],
) -> None:
    for kind, quantized in (("vit", 0), ("resnet", 19)):
        encoder = encoders(kind)["image"]
        proto = quantize(encoder.proto, encoder.feeds, PLAIN)
        kernels = [v for v in values_of(proto).values() if v.ndim == 4 and v.dtype == np.int8]
        assert len(kernels) == quantized


def biased(encoder: Encoder) -> Encoder:
    """With a bias in each Conv, as trained BatchNorms leave behind."""
    proto, rng = edit.prepare(encoder.proto), np.random.default_rng(6)
    kernels = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if tensor.dims}
    for node in nodes_of(proto, "Conv"):
        bias = rng.normal(0, 0.1, kernels[node.input[1]]).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(bias, f"{node.name}.b"))
        node.input[:] = [*node.input[:2], f"{node.name}.b"]
    return Encoder(proto, encoder.feeds, encoder.held_out)


def test_uint8_convolutions_are_whole_in_integers(
    encoders: Callable[[str], dict[str, Encoder]],
) -> None:
    encoder = biased(encoders("resnet")["image"])
    proto = quantize(encoder.proto, encoder.feeds, Recipe("uint8", "minmax"))
    assert mean_cosine(proto, encoder) >= 0.99
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for conv in nodes_of(proto, "Conv"):
        assert {makers[name].op_type for name in conv.input} == {"DequantizeLinear"}
        (after,) = readers[conv.output[0]]
        if after.op_type == "Relu":
            (after,) = readers[after.output[0]]
        assert after.op_type == "QuantizeLinear"
    assert any(v.dtype == np.int32 for v in values_of(proto).values())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("side", ["image", "text"])
def test_smoothing_leaves_the_function(
    side: str, alpha: float, encoders: Callable[[str], dict[str, Encoder]]
) -> None:
    encoder = encoders("vit")[side]
    smoothed = smooth(encoder.proto, encoder.feeds, alpha)
    found, exact = (answer(p, encoder.held_out) for p in (smoothed, encoder.proto))
    np.testing.assert_allclose(found, exact, atol=1e-5)
    plain, changed = values_of(encoder.proto), values_of(smoothed)
    assert {name for name in changed if name not in plain}


def outliers(encoder: Encoder) -> Encoder:
    """The same function, with a few large channels before the MatMuls, as large CLIPs have."""
    proto = edit.prepare(encoder.proto)
    values = {t.name: t for t in proto.graph.initializer}
    for index, norm in enumerate(nodes_of(proto, "LayerNormalization")):
        readers = [n for n in proto.graph.node if norm.output[0] in n.input]
        while len(readers) == 1 and readers[0].op_type == "Transpose":
            readers = [n for n in proto.graph.node if readers[0].output[0] in n.input]
        if len(readers) != 1 or readers[0].op_type != "MatMul":
            continue
        factor = np.ones(64, np.float32)
        factor[index % 7 :: 17] = 60
        for place, scale in ((1, factor), (2, factor)):
            made: NDArray[Any] = numpy_helper.to_array(values[norm.input[place]]) * scale
            norm.input[place] = f"{norm.name}.{place}"
            proto.graph.initializer.append(numpy_helper.from_array(made, norm.input[place]))
        made = numpy_helper.to_array(values[readers[0].input[1]]) / factor[:, None]
        readers[0].input[1] = f"{readers[0].name}.weight"
        proto.graph.initializer.append(numpy_helper.from_array(made, readers[0].input[1]))
    return Encoder(proto, encoder.feeds, encoder.held_out)


def test_smoothing_mends_outliers(image: Encoder) -> None:
    hard = outliers(image)
    assert mean_cosine(hard.proto, image) > 0.99999
    plain, smoothed = (
        1 - mean_cosine(quantize(hard.proto, hard.feeds, recipe), hard)
        for recipe in (PLAIN, Recipe("qdq", "minmax", smooth=0.5))
    )
    assert smoothed < plain / 3


def test_smoothing_is_folded_into_layernorm(image: Encoder) -> None:
    before, after = (
        len(nodes_of(p, "Mul")) for p in (image.proto, smooth(image.proto, image.feeds, 0.5))
    )
    layers = 2
    # Behind attention, Gelu and the choice of the class token, but not behind LayerNorm.
    assert after == before + 2 * layers + 1


def test_excluded_layers_stay_fp32(image: Encoder) -> None:
    ranking = sensitivity(image.proto, image.feeds)
    chosen = tuple(name for name, _ in ranking[:3])
    recipe = Recipe("qdq", "minmax", smooth=0.5, excluded=chosen)
    proto = quantize(image.proto, image.feeds, recipe)
    weights = values_of(image.proto)
    assert chosen
    for before in image.proto.graph.node:
        if before.name in chosen:
            (node,) = (n for n in proto.graph.node if n.name == before.name)
            assert list(node.input) == list(before.input)
            np.testing.assert_array_equal(values_of(proto)[node.input[1]], weights[before.input[1]])
    int8 = sum(v.dtype == np.int8 and v.ndim == 2 for v in values_of(proto).values())
    assert int8 == len(ranking) - 3


def test_sensitivity_finds_the_layer_that_int8_hurts(image: Encoder) -> None:
    plain = dict(sensitivity(image.proto, image.feeds))
    assert all(0 < error < 0.2 for error in plain.values())
    hard = dict(sensitivity(outliers(image).proto, image.feeds))
    worse = [name for name in plain if hard[name] > 2 * plain[name]]
    assert 1 <= len(worse) < len(plain)
    ranked = [error for _, error in sensitivity(image.proto, image.feeds)]
    assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("form", FORMS)
def test_recipes_grow_and_all_work(form: Form, image: Encoder) -> None:
    tried = list(recipes(image.proto, form, "minmax", image.feeds))
    assert tried == list(recipes(image.proto, form, "minmax", image.feeds))
    assert tried[0] == Recipe(form, "minmax")
    assert [recipe.smooth for recipe in tried[1:4]] == [0.5, 0.65, 0.8]
    assert len(set(tried)) == len(tried)
    sizes = [len(recipe.excluded) for recipe in tried]
    assert sizes == sorted(sizes)
    assert sizes[:4] == [0] * 4
    assert sizes[-1] >= 5
    for recipe in (tried[0], tried[1], tried[-1]):
        assert mean_cosine(quantize(image.proto, image.feeds, recipe), image) >= 0.99


def test_first_recipe_needs_no_measurement(image: Encoder) -> None:
    assert len(list(islice(recipes(image.proto, "qdq", "entropy", []), 4))) == 4


def test_descriptions() -> None:
    assert Recipe("qdq", "entropy").describe() == "qdq, entropy"
    recipe = Recipe("uint8", "minmax", smooth=0.5, excluded=("a", "b"))
    assert recipe.describe() == "uint8, minmax, SmoothQuant alpha 0.5, 2 layers in FP32"
    assert replace(recipe, form="qdq").describe().endswith("2 layers in FP16")
    assert DEFAULT_CPU_FORM in FORMS


def test_four_bits_are_far_worse(image: Encoder) -> None:
    proto = quantize(image.proto, image.feeds, PLAIN)
    eight = 1 - mean_cosine(proto, image)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim == 2:
            rough = (np.clip(np.rint(values / 18), -7, 7) * 18).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(rough, tensor.name))
    assert 1 - mean_cosine(proto, image) > 10 * eight


def test_rounding() -> None:
    weight = np.array([[1, 0, -2], [0.5, 0, 0.01]], np.float32)
    quantized, scales = quantize_weight(weight, axis=1)
    np.testing.assert_array_equal(quantized, [[127, 0, -127], [64, 0, 1]])
    np.testing.assert_allclose(scales, [1 / 127, 1, 2 / 127])
    assert [float(n) for n in activation_scale((-1.0, 127.0), INT8)] == [1, 0]
    assert [float(n) for n in activation_scale((-5.0, 250.0), UINT8)] == [1, 5]
    assert [float(n) for n in activation_scale((3.0, 255.0), UINT8)] == [1, 0]
    assert activation_scale((0.0, 0.0), UINT8)[0] > 0


def test_nothing_to_quantize_or_to_calibrate_with(image: Encoder) -> None:
    with pytest.raises(GraphError, match="no samples"):
        quantize(image.proto, [], PLAIN)
    with pytest.raises(GraphError, match="excludes no-such: no such node"):
        quantize(image.proto, image.feeds, Recipe("qdq", "minmax", excluded=("no-such",)))
    names = tuple(name for name, _ in sensitivity(image.proto, image.feeds))
    with pytest.raises(GraphError, match="no MatMul, Gemm or Conv"):
        quantize(image.proto, image.feeds, Recipe("qdq", "minmax", excluded=names))
    broken = edit.prepare(image.proto)
    norm = nodes_of(broken, "LayerNormalization")[0]
    huge = np.full(64, np.inf, np.float32)
    broken.graph.initializer.append(numpy_helper.from_array(huge, norm.input[2] + ".inf"))
    norm.input[2] += ".inf"
    with pytest.raises(GraphError, match="infinite"):
        quantize(broken, image.feeds, PLAIN)
