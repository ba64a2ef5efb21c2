"""Calibration: chooses the range of each activation to quantize, from samples."""

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

Method: TypeAlias = Literal["minmax", "entropy", "percentile"]
Range: TypeAlias = tuple[float, float]

BINS = {"percentile": 2048, "entropy": 512}  # entropy tries each bin's edge, in plain Python
QUANTIZED_BINS = 128  # of entropy, as in TensorRT's calibrator
PERCENTILE = 99.99  # of the magnitudes


def measure_ranges(
    proto: onnx.ModelProto,
    feeds: Sequence[NDArray[Any]],
    names: Sequence[str],
    method: Method,
) -> dict[str, Range]:
    """Measure the range of each of these values, by name.

    `entropy` and `percentile` use ONNX Runtime's calibrators; their histograms grow by one small
    batch at a time, so that memory stays bounded.

    Raises:
        GraphError: There are no samples, or they give infinite values.
    """
    names = list(dict.fromkeys(names))
    ranges = edit.extremes(proto, feeds, names)
    broken = [name for name, ends in ranges.items() if not np.isfinite(ends).all()]
    if broken:
        raise GraphError(f"the samples make {broken[0]} infinite: it has no range to calibrate")
    if method == "minmax":
        return ranges
    collector = HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=BINS[method],
        num_quantized_bins=QUANTIZED_BINS,
        percentile=PERCENTILE,
        scenario="same",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        for run in edit.observe(proto, feeds, names):
            collector.collect({name: [values] for name, values in run.items()})
        found = collector.compute_collection_result()
    limits = {name: float(max(abs(end) for end in found[name][:2])) for name in names}
    return {
        name: (max(low, -limits[name]), min(high, limits[name]))
        for name, (low, high) in ranges.items()
    }
