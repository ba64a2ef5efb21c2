"""Keys of config.pbtxt and what they become."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from server.backends.errors import ConfigError
from server.backends.onnxruntime.options import ARENA_SHRINKAGE, Settings
from server.backends.processor import saturates


def config(**values: str) -> dict[str, Any]:
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


def test_nothing_given_is_the_default_of_the_c_plus_plus_backend() -> None:
    options = Settings.read({}).session_options()
    assert options.intra_op_num_threads == 0
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.enable_cpu_mem_arena
    assert options.enable_mem_pattern


def test_every_parameter_reaches_the_session_options() -> None:
    options = Settings.read(
        config(
            intra_op_thread_count="3",
            inter_op_thread_count="2",
            execution_mode="1",
            enable_mem_arena="0",
            enable_mem_pattern="False",
        )
    ).session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


def test_idle_threads_do_not_spin() -> None:
    options = Settings().session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_batches_are_split_only_where_the_configuration_says_so() -> None:
    assert not Settings.read({}).split_batches
    assert Settings.read(config(split_batches="1")).split_batches


def test_arena_shrinkage_reaches_the_run_options() -> None:
    options = Settings.read(config(**{ARENA_SHRINKAGE: "cpu:0"})).run_options()
    assert options.get_run_config_entry(ARENA_SHRINKAGE) == "cpu:0"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (-1, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        (0, ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
        (1, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        (2, ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ],
)
def test_graph_level(level: int, expected: ort.GraphOptimizationLevel) -> None:
    settings = Settings.read({"optimization": {"graph": {"level": level}}})
    assert settings.session_options().graph_optimization_level == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("intra_op_thread_count", "many"),
        ("inter_op_thread_count", "-1"),
        ("execution_mode", "2"),
        ("enable_mem_arena", "maybe"),
        ("enable_mem_pattern", ""),
        ("split_batches", "2"),
    ],
)
def test_a_bad_value_is_named_with_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: expected .* not '{value}'"):
        Settings.read(config(**{key: value}))


def test_an_accelerator_is_refused() -> None:
    field = {"cpu_execution_accelerator": [{"name": "openvino"}]}
    given = {"optimization": {"execution_accelerators": field}}
    with pytest.raises(ConfigError, match="'openvino' is not available"):
        Settings.read(given)


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        ("fpu sse4_2 avx2", "x86_64", True),
        ("fpu avx2 avx_vnni", "x86_64", False),
        ("fpu avx512f avx512_vnni", "AMD64", False),
        ("fp asimd", "aarch64", False),
    ],
)
def test_int8_saturates_where_vnni_is_missing(
    tmp_path: Path, flags: str, machine: str, expected: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert saturates(cpuinfo, machine) == expected


def test_an_unknown_processor_is_left_alone(tmp_path: Path) -> None:
    assert not saturates(tmp_path / "none", "x86_64")
