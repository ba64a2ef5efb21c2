"""Detects what this processor's arithmetic can do, and sets ONNX Runtime up for it."""

import platform
from pathlib import Path

import onnxruntime

CPUINFO = Path("/proc/cpuinfo")
VNNI = frozenset(("avx512_vnni", "avx_vnni"))
PRECISE = "session.x64quantprecision"  # makes INT8 weights unsigned on load


def flags_of(cpuinfo: Path = CPUINFO) -> list[str]:
    """Flags of the first processor in Linux's list; none where they are not known."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith("flags")), [])


def saturates(cpuinfo: Path = CPUINFO, machine: str = "") -> bool:
    """Whether INT8 sums saturate on this processor: on x86 without VNNI.

    There ONNX Runtime adds products of unsigned activations and signed weights in 16 bits.
    `machine` is the architecture, by default that of this machine.
    """
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    flags = flags_of(cpuinfo)
    return x86 and bool(flags) and VNNI.isdisjoint(flags)


def session_entries(*, fp8: bool = False) -> dict[str, str]:
    """ONNX Runtime's configuration of every session; `fp8`: of a graph with FP8 numbers."""
    # As in serving; spinning threads would slow the graph that is timed next.
    entries = {"session.intra_op.allow_spinning": "0"}
    if saturates():  # elsewhere it has no use and costs a fifth of the speed
        entries[PRECISE] = "1"
    if fp8:  # ONNX Runtime 1.31 fuses pairs of FP8 into INT8's operators, and refuses the graph
        entries["session.disable_quant_qdq"] = "1"
    return entries


def session_options(*, fp8: bool = False) -> onnxruntime.SessionOptions:
    """Options of every session that runs or measures a graph; `fp8`: one with FP8 numbers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in session_entries(fp8=fp8).items():
        options.add_session_config_entry(name, value)
    return options
