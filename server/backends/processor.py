"""Detects what this processor's arithmetic can do."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}
BF16 = {"avx512_bf16", "amx_bf16"}


def saturates(cpuinfo: Path = CPUINFO, machine: str = "") -> bool:
    """Whether INT8 sums saturate on this processor: on x86 without VNNI.

    There ONNX Runtime adds products of unsigned activations and signed weights in 16 bits, unless
    `session.x64quantprecision` is set. Elsewhere that option is useless and costs a fifth of the
    speed.

    Args:
        cpuinfo: Linux's list of processors.
        machine: Architecture; default `platform.machine()`.
    """
    flags = processor_flags(cpuinfo)
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    return x86 and bool(flags) and VNNI.isdisjoint(flags)


def has_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this processor multiplies BF16 matrices.

    Args:
        cpuinfo: Linux's list of processors.
    """
    return not BF16.isdisjoint(processor_flags(cpuinfo))


def processor_flags(cpuinfo: Path) -> list[str]:
    """Flags of the first processor; empty if they are not known."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith("flags")), [])
