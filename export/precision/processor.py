"""Detects what this processor does with INT8 products."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = frozenset(("avx512_vnni", "avx_vnni"))
PRECISE = "session.x64quantprecision"  # makes INT8 weights unsigned on load


def saturates(cpuinfo: Path = CPUINFO, machine: str = "") -> bool:
    """Whether INT8 sums saturate on this processor: on x86 without VNNI.

    There ONNX Runtime adds products of unsigned activations and signed weights in 16 bits.

    Args:
        cpuinfo: Linux's list of processors.
        machine: Architecture; default `platform.machine()`.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    return x86 and not VNNI.intersection(flags)
