"""Properties of a compiled model from a model configuration, by the rules of NVIDIA's C++ backend.

Keys and meanings follow ``src/openvino.cc`` in triton-inference-server/openvino_backend.
"""

from dataclasses import dataclass
from typing import Any, Self

from server.backends.errors import ConfigError
from server.backends.processor import has_bf16

HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
COUNTS = ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS")
# SKIP_OV_DYNAMIC_BATCHSIZE and ENABLE_BATCH_PADDING have no effect: batches run at their own size.
UNSUPPORTED = ("CPU_EXTENSION_PATH", "RESHAPE_IO_LAYERS")


@dataclass(frozen=True, slots=True)
class Settings:
    """OpenVINO's properties for a CPU.

    Attributes:
        properties: By OpenVINO's name; what is left out is OpenVINO's default.
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
        for key in COUNTS:
            if key in given:
                if not given[key].isdecimal():
                    raise _unexpected(key, "a number of at least 0", given[key])
                properties[key] = given[key]
        if "NUM_STREAMS" in given:
            streams = given["NUM_STREAMS"].upper()
            if streams not in ("AUTO", "NUMA") and not streams.isdecimal():
                raise _unexpected("NUM_STREAMS", "AUTO, NUMA or a number", streams)
            properties["NUM_STREAMS"] = streams
        if "PERFORMANCE_HINT" in given:
            hint = given["PERFORMANCE_HINT"].upper()
            if hint not in HINTS:
                raise _unexpected("PERFORMANCE_HINT", ", ".join(HINTS), hint)
            properties["PERFORMANCE_HINT"] = hint
        bf16 = "HINT_BF16" in given
        if bf16 and given["HINT_BF16"].upper() != "YES":
            raise _unexpected("HINT_BF16", "YES", given["HINT_BF16"])
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


def _unexpected(key: str, expected: str, value: str) -> ConfigError:
    return ConfigError(f"parameter {key}: expected {expected}, not '{value}'")
