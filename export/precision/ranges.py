"""Calibration: what activations take on samples -> the range that INT8 covers."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from export.errors import GraphError
from export.precision import edit
from export.precision.targets import Target

Method: TypeAlias = Literal["minmax", "entropy", "percentile"]
Range: TypeAlias = tuple[float, float]

BINS = {"percentile": 2048, "entropy": 512}  # entropy tries each bin's edge, in plain Python
QUANTIZED_BINS = 128  # that entropy compares with, as TensorRT's calibrator did
PERCENTILE = 99.99  # of the magnitudes


def measure_ranges(
    proto: onnx.ModelProto,
    feeds: Sequence[NDArray[Any]],
    targets: Sequence[Target],
    method: Method,
    *,
    unsigned: bool,
) -> dict[str, Range]:
    """The range of each activation that is to be quantized, by value name.

    `entropy` and `percentile` choose it by ONNX Runtime's calibrators; their histograms take one
    small batch after the other, so that memory stays bounded.

    Raises:
        GraphError: There are no samples, or the graph makes infinite values of them.
    """
    names = [target.activation for target in targets]
    if unsigned:
        names += [target.output for target in targets if target.op == "Conv"]
    names = list(dict.fromkeys(names))
    ranges = edit.extremes(proto, feeds, names)
    broken = [name for name, ends in ranges.items() if not np.isfinite(ends).all()]
    if broken:
        raise GraphError(f"the samples make {broken[0]} infinite: it has no range to calibrate")
    if method != "minmax":
        ranges.update(_histograms(proto, feeds, names, ranges, method))
    return ranges


def _histograms(
    proto: onnx.ModelProto,
    feeds: Sequence[NDArray[Any]],
    names: Sequence[str],
    seen: dict[str, Range],
    method: Method,
) -> dict[str, Range]:
    collector = HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=BINS[method],
        num_quantized_bins=QUANTIZED_BINS,
        percentile=PERCENTILE,
        scenario="same",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        for run in edit.observe(proto, feeds, names):
            collector.collect({name: [values] for name, values in run.items()})
        found = collector.compute_collection_result()
    limits = {name: float(max(abs(end) for end in found[name][:2])) for name in names}
    return {
        name: (max(low, -limits[name]), min(high, limits[name]))
        for name, (low, high) in seen.items()
    }
