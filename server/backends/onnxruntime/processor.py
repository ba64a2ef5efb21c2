"""Detects processors whose INT8 arithmetic saturates."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}


def saturates(cpuinfo: Path = CPUINFO, machine: str = "") -> bool:
    """Whether INT8 sums saturate on this processor: on x86 without VNNI.

    There ONNX Runtime adds products of unsigned activations and signed weights in 16 bits, unless
    `session.x64quantprecision` is set. Elsewhere that option has no use and costs a fifth of the
    speed.

    Args:
        cpuinfo: Linux's list of processors.
        machine: Architecture; default `platform.machine()`.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return False
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not VNNI.intersection(flags)
