"""Properties of a compiled model from a model configuration, by the rules of NVIDIA's C++ backend.

Keys and meanings follow ``src/openvino.cc`` in triton-inference-server/openvino_backend.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from server.backends.errors import ConfigError
from server.backends.processor import has_bf16

HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
# The expected value of each key.
KEYS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "INFERENCE_NUM_THREADS": (str.isdecimal, "a number of at least 0"),
    "COMPILATION_NUM_THREADS": (str.isdecimal, "a number of at least 0"),
    "NUM_STREAMS": (
        lambda value: value in ("AUTO", "NUMA") or value.isdecimal(),
        "AUTO, NUMA or a number",
    ),
    "PERFORMANCE_HINT": (HINTS.__contains__, ", ".join(HINTS)),
    "HINT_BF16": ("YES".__eq__, "YES"),
}
# SKIP_OV_DYNAMIC_BATCHSIZE and ENABLE_BATCH_PADDING have no effect: batches run at their own size.
UNSUPPORTED = ("CPU_EXTENSION_PATH", "RESHAPE_IO_LAYERS")


@dataclass(frozen=True, slots=True)
class Settings:
    """OpenVINO's properties for a CPU.

    Attributes:
        properties: By OpenVINO's name; a missing one has OpenVINO's default.
        bf16: Whether the configuration asks for BF16.
    """

    properties: dict[str, str]
    bf16: bool = False

    @classmethod
    def read(cls, config: dict[str, Any]) -> Self:
        """Read a model configuration, as Triton passes it to Python backends, parsed from JSON.

        Raises:
            ConfigError: The message names the key and its value.
        """
        given = {
            key: value.get("string_value", "")
            for key, value in config.get("parameters", {}).items()
        }
        # Every instance is a process, and each would pin its threads to the same first cores.
        properties = {"ENABLE_CPU_PINNING": "NO"}
        for key in UNSUPPORTED:
            if key in given:
                raise ConfigError(f"parameter {key}: not supported by this backend")
        for key, (fits, expected) in KEYS.items():
            if key in given:
                value = given[key].upper()
                if not fits(value):
                    raise ConfigError(f"parameter {key}: expected {expected}, not '{given[key]}'")
                properties[key] = value
        bf16 = properties.pop("HINT_BF16", "") == "YES"
        # Without the hint OpenVINO computes in BF16 wherever the processor can.
        properties["INFERENCE_PRECISION_HINT"] = "bf16" if bf16 and has_bf16() else "f32"
        return cls(properties, bf16)

    @property
    def warning(self) -> str | None:
        """Warning about a processor that cannot do what the configuration asks, or None."""
        if not self.bf16 or self.properties["INFERENCE_PRECISION_HINT"] == "bf16":
            return None
        return (
            "this processor has no BF16 arithmetic (no avx512_bf16 or amx_bf16 in /proc/cpuinfo): "
            "OpenVINO computes in FP32, and an FP32 variant is faster here"
        )
