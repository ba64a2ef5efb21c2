"""Compares the inputs and outputs of a graph with a Triton model configuration.

The rules are those of ONNX Runtime's C++ backend: ``ValidateInputs`` and ``ValidateOutputs`` in its
``src/onnxruntime.cc``, ``CompareDimsSupported`` in its utilities. Unlike there, the configuration
must list all inputs and outputs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from server.backends.errors import ConfigError

NUMPY_TYPES = {
    "TYPE_BOOL": np.dtype(np.bool_),
    "TYPE_FP16": np.dtype(np.float16),
    "TYPE_FP32": np.dtype(np.float32),
    "TYPE_FP64": np.dtype(np.float64),
} | {f"TYPE_{kind}{bits}": np.dtype(f"{kind.lower()}{bits}")
     for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, as the graph declares it."""

    name: str
    data_type: str  # as in config.pbtxt, for example TYPE_FP32
    dims: tuple[int, ...]  # with the batch dimension; -1 is any size

    def problem(self, array: np.ndarray) -> str:
        """Reason why ``array`` does not fit this input; empty if it fits."""
        if array.dtype != NUMPY_TYPES[self.data_type]:
            return f"input '{self.name}': expected {self.data_type}, got {array.dtype}"
        if not _fits(self.dims, array.shape):
            return f"input '{self.name}': expected shape {list(self.dims)}, got {list(array.shape)}"
        return ""


@dataclass(frozen=True, slots=True)
class Signature:
    """All inputs and outputs of a graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check(self, config: dict[str, Any]) -> None:
        """Compare names, data types and dims with a complete configuration.

        Raises:
            ConfigError: The message names the tensor and both sides of the difference.
        """
        batched = int(config.get("max_batch_size", 0)) > 0
        required = {entry["name"] for entry in config["input"] if not entry.get("optional")}
        missing = [spec.name for spec in self.inputs if spec.name not in required]
        if missing:
            raise ConfigError(f"input '{missing[0]}' of the graph is not in the configuration")
        _check("input", config["input"], self.inputs, batched, exact=False)
        _check("output", config["output"], self.outputs, batched, exact=True)


def _check(
    role: str,
    entries: list[dict[str, Any]],
    specs: tuple[TensorSpec, ...],
    batched: bool,
    exact: bool,
) -> None:
    known = {spec.name: spec for spec in specs}
    for entry in entries:
        spec = known.get(entry["name"])
        if spec is None:
            raise ConfigError(
                f"{role} '{entry['name']}' is not in the graph, which has: {', '.join(known)}"
            )
        if entry["data_type"] != spec.data_type:
            raise ConfigError(
                f"{role} '{spec.name}': the configuration says {entry['data_type']}, "
                f"the graph {spec.data_type}"
            )
        dims = entry.get("reshape", {}).get("shape", entry["dims"])
        given = [-1] * batched + [int(dim) for dim in dims]
        scalar = not spec.dims and not batched and all(dim == 1 for dim in given)
        first = not batched or spec.dims[:1] == (-1,)
        same = tuple(given) == spec.dims if exact else _fits(spec.dims, tuple(given))
        if not scalar and not (first and same):
            raise ConfigError(
                f"{role} '{spec.name}': the configuration says shape {given}"
                f"{' (with the batch dimension of max_batch_size > 0)' * batched}, "
                f"the graph {list(spec.dims)}"
            )


def _fits(declared: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Whether every dimension that the graph fixes equals the given one."""
    return len(declared) == len(given) and all(
        ours in (-1, theirs) for ours, theirs in zip(declared, given, strict=True)
    )
