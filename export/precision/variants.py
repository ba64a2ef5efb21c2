"""The variants of a model, and the conversion of its graphs to each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import onnx
from numpy.typing import NDArray

from export.errors import CrashError, ExportError
from export.precision import half
from export.precision.quantize import quantize
from export.precision.ranges import Method
from export.precision.recipe import DEFAULT_CPU_FORM, Form, Recipe, recipes

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Runtime = Literal["onnxruntime", "openvino", "tensorrt"]  # the backend that serves it

Feeds = Sequence[NDArray[Any]]  # batches of an encoder's input
Measure = Callable[[onnx.ModelProto], float]  # mean cosine of a graph to PyTorch


@dataclass(frozen=True, slots=True)
class Variant:
    """A precision on a runtime; each is published as a model of its own."""

    precision: Precision
    runtime: Runtime

    def model_id(self, base: str) -> str:
        """The id of this variant of `base`: FP32 on ONNX Runtime is `base` itself."""
        parts = [base]
        if self.precision != "fp32":
            parts.append(self.precision)
        if self.runtime != "onnxruntime":
            parts.append(self.runtime)
        return ".".join(parts)

    @property
    def on_cpu(self) -> bool:
        """Whether its runtime may serve on a CPU."""
        return self.runtime != "tensorrt"

    @property
    def quantized(self) -> bool:
        """Whether it needs calibration and a search among recipes."""
        return self.precision in ("int8", "fp8")

    @property
    def traced_for(self) -> Runtime:
        """The runtime whose traced graphs it starts from."""
        return "onnxruntime" if self.on_cpu else "tensorrt"

    @property
    def form(self) -> Form:
        """The fastest form of INT8 for the runtime, or that of FP8."""
        if self.precision == "fp8":
            return "fp8"
        return "qdq" if self.runtime == "tensorrt" else DEFAULT_CPU_FORM


def pairs(precisions: Sequence[Precision], runtimes: Sequence[Runtime]) -> tuple[Variant, ...]:
    """Pair each precision with each runtime that computes in it.

    Args:
        precisions: None is FP32.
        runtimes: None is ONNX Runtime, and OpenVINO for BF16.

    Raises:
        ExportError: A precision or a runtime is left without a partner.
    """
    wanted, backends = precisions or ("fp32",), runtimes or ("onnxruntime", "openvino")
    found = tuple(
        Variant(precision, runtime)
        for runtime in dict.fromkeys(backends)
        for precision in dict.fromkeys(wanted)
        if (precision == "bf16") == (runtime == "openvino")
        and not (precision == "fp8" and runtime != "tensorrt")
    )
    paired = {name for variant in found for name in (variant.precision, variant.runtime)}
    alone = [name for name in (*wanted, *runtimes) if name not in paired]
    if alone:
        raise ExportError(
            f"{alone[0]} is left without a partner: OpenVINO runs only bf16, only OpenVINO runs "
            "bf16, and only TensorRT runs fp8"
        )
    return found


@dataclass(frozen=True, slots=True)
class Graphs:
    """The encoders of a variant; token lengths that share a graph share one object."""

    image: onnx.ModelProto
    text: dict[int, onnx.ModelProto]
    recipe: dict[str, str] = field(default_factory=dict)  # of INT8 and FP8, by encoder
    packed: bool = False  # whether one text graph serves any length


@dataclass(frozen=True, slots=True)
class Candidate:
    """A quantized graph with its recipe and mean cosine."""

    recipe: Recipe
    proto: onnx.ModelProto
    mean_cosine: float


def compacted(graphs: Graphs) -> Graphs:
    """Copy the graphs, storing weights as FP16 where that is exact."""
    return _converted(graphs, lambda proto, _: half.compact(proto))


def halved(graphs: Graphs, pixels: Feeds, ids: Mapping[int, Feeds]) -> Graphs:
    """Convert the graphs to FP16; layers near overflow on the feeds stay FP32."""

    def convert(proto: onnx.ModelProto, lengths: Sequence[int]) -> onnx.ModelProto:
        texts = [batch for length in lengths for batch in ids.get(length, ())]
        return half.to_fp16(proto, texts if lengths else pixels)

    return _converted(graphs, convert)


def _converted(
    graphs: Graphs, convert: Callable[[onnx.ModelProto, Sequence[int]], onnx.ModelProto]
) -> Graphs:
    """Convert each graph once, given its token lengths; those of the image encoder are none."""
    text: dict[int, onnx.ModelProto] = {}
    for length, proto in graphs.text.items():
        if length not in text:
            shared = [n for n, other in graphs.text.items() if other is proto]
            text |= dict.fromkeys(shared, convert(proto, shared))
    return replace(graphs, image=convert(graphs.image, ()), text=text)


def candidates(
    proto: onnx.ModelProto, form: Form, method: Method, feeds: Feeds, measure: Measure
) -> Iterator[Candidate]:
    """Yield INT8 or FP8 graphs in the order to try them, the fastest first.

    Raises:
        CrashError: ONNX Runtime crashed on all of them.
    """
    crash: CrashError | None = None
    some = False
    for recipe in recipes(proto, form, method, feeds):
        made = quantize(proto, feeds, recipe)
        if form != "uint8":  # on a GPU, FP16 is faster than FP32 for the other layers
            made = half.to_fp16(made)
        try:
            cosine = measure(made)
        except CrashError as error:  # another recipe makes another graph
            crash = error
            continue
        some = True
        yield Candidate(recipe, made, cosine)
    if crash is not None and not some:
        raise crash
