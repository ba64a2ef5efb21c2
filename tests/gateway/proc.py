"""What the kernel tells of processes."""

import contextlib
import re
from pathlib import Path


def children(parent: int) -> list[int]:
    """Those that it has started and that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, above = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(above) == parent and state != "Z":
                found.append(int(entry.name))
    return sorted(found)


def alive(pid: int) -> bool:
    """Whether it has not ended, be it waited for or not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def stopped(pid: int) -> bool:
    """Whether all its threads are stopped: SIGSTOP reaches them one after the other."""
    with contextlib.suppress(OSError):  # a thread has ended meanwhile
        threads = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(each.read_text().rpartition(")")[2].split()[0] == "T" for each in threads)
    return False


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for the signal."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return bool(int(re.findall(r"SigCgt:\s(\w+)", status)[0], 16) >> (number - 1) & 1)
    return False
