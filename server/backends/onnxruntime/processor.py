"""What this processor needs of ONNX Runtime for INT8 to be right."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}


def saturates(cpuinfo: Path = CPUINFO, machine: str = "") -> bool:
    """Whether INT8 sums saturate here: on x86 without VNNI.

    There ONNX Runtime adds products of unsigned activations and signed weights in 16 bits, unless
    `session.x64quantprecision` is set, which elsewhere costs a fifth of the speed for nothing.

    Args:
        cpuinfo: Linux's list of processors.
        machine: As `platform.machine()` has it, which is asked where this is left out.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return False
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not VNNI.intersection(flags)
