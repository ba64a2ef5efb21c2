"""The CPU time and the memory of processes, from /proc."""

import contextlib
import os
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")  # per second


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, in user mode and in the kernel, all threads together."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    found = [root]
    for pid in found:  # which grows meanwhile
        found += _children(pid)
    return found


def tree_cpu_seconds(root: int) -> float:
    """CPU time of a process and of its living descendants."""
    return sum(cpu_seconds(pid) for pid in tree(root))


def resident_bytes(pid: int) -> int:
    """Memory of a process that is resident, shared parts included."""
    return _kilobytes(pid, "status", "VmRSS:")


def proportional_bytes(root: int) -> int:
    """Memory of a process and its descendants, with shared memory counted once."""
    return sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in tree(root))


def _children(pid: int) -> list[int]:
    """The processes that the threads of a process started; none of one that has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):  # it ended while we looked
                found += map(int, (thread / "children").read_text().split())
    return found


def _stat(pid: int) -> list[str]:
    """The fields of `stat` after the program's name, which may hold spaces."""
    text = (PROC / str(pid) / "stat").read_text(errors="replace")
    return text.rpartition(")")[2].split()


def _kilobytes(pid: int, file: str, name: str) -> int:
    lines = (PROC / str(pid) / file).read_text(errors="replace").splitlines()
    found = [line.split()[1] for line in lines if line.startswith(name)]
    return int(found[0]) * 1024 if found else 0
