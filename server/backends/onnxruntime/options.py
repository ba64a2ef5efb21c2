"""Session options from a model configuration, by the rules of NVIDIA's C++ backend.

Keys, defaults and meanings follow ``src/onnxruntime.cc`` in
triton-inference-server/onnxruntime_backend, so that one ``config.pbtxt`` works with both.
"""

from dataclasses import dataclass
from typing import Any, Self

import onnxruntime as ort

from server.backends.errors import ConfigError
from server.backends.processor import saturates

ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
SPLIT = "split_batches"  # not a key of the C++ backend, which ignores it
FATAL = 4  # of ONNX Runtime's log severities
TRUE, FALSE = ("true", "1"), ("false", "0")

# optimization.graph.level; any other level means all optimizations.
GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of ONNX Runtime; a thread count of 0 is its default."""

    intra_op_thread_count: int = 0
    inter_op_thread_count: int = 0
    execution_mode: int = 0  # 0 sequential, 1 parallel
    graph_level: int = 0
    enable_mem_arena: bool = True
    enable_mem_pattern: bool = True
    arena_shrinkage: str = ""  # for example "cpu:0"
    split_batches: bool = False

    @classmethod
    def read(cls, config: dict[str, Any]) -> Self:
        """Read a model configuration, as Triton passes it to Python backends, parsed from JSON.

        Raises:
            ConfigError: The message names the key and its value.
        """
        parameters = {
            key: value.get("string_value", "")
            for key, value in config.get("parameters", {}).items()
        }
        optimization = config.get("optimization", {})
        accelerators = optimization.get("execution_accelerators", {})
        if found := accelerators.get("cpu_execution_accelerator"):
            raise ConfigError(
                "optimization.execution_accelerators.cpu_execution_accelerator: "
                f"'{found[0].get('name')}' is not available in this backend"
            )
        mode = _count(parameters, "execution_mode")
        if mode not in (0, 1):
            raise ConfigError(f"parameter execution_mode: expected 0 or 1, not '{mode}'")
        return cls(
            intra_op_thread_count=_count(parameters, "intra_op_thread_count"),
            inter_op_thread_count=_count(parameters, "inter_op_thread_count"),
            execution_mode=mode,
            graph_level=int(optimization.get("graph", {}).get("level", 0)),
            enable_mem_arena=_flag(parameters, "enable_mem_arena"),
            enable_mem_pattern=_flag(parameters, "enable_mem_pattern"),
            arena_shrinkage=parameters.get(ARENA_SHRINKAGE, ""),
            split_batches=_flag(parameters, SPLIT, default="false"),
        )

    def session_options(self) -> ort.SessionOptions:
        """Options of the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.intra_op_thread_count
        options.inter_op_num_threads = self.inter_op_thread_count
        options.execution_mode = (
            ort.ExecutionMode.ORT_PARALLEL
            if self.execution_mode
            else ort.ExecutionMode.ORT_SEQUENTIAL
        )
        options.graph_optimization_level = GRAPH_LEVELS.get(
            self.graph_level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        )
        options.enable_cpu_mem_arena = self.enable_mem_arena
        options.enable_mem_pattern = self.enable_mem_pattern
        for pool in ("intra_op", "inter_op"):
            # Idle threads that spin block the cores for other instances, Triton and the gateway: on
            # 2 cores with 1 to 4 instances, spinning halves the throughput.
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
        if saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def run_options(self) -> ort.RunOptions:
        """Options of every run."""
        options = ort.RunOptions()
        options.log_severity_level = FATAL  # the client gets the error of a failed run
        if self.arena_shrinkage:
            options.add_run_config_entry(ARENA_SHRINKAGE, self.arena_shrinkage)
        return options


def _count(parameters: dict[str, str], key: str) -> int:
    value = parameters.get(key, "0")
    if not value.isdecimal():
        raise ConfigError(f"parameter {key}: expected a number of at least 0, not '{value}'")
    return int(value)


def _flag(parameters: dict[str, str], key: str, default: str = "true") -> bool:
    value = parameters.get(key, default).lower()
    if value not in TRUE + FALSE:
        raise ConfigError(f"parameter {key}: expected true or false, not '{value}'")
    return value in TRUE
