"""What the kernel tells of processes."""

import contextlib
import re
import threading
from pathlib import Path
from typing import Self

from benchmarks.systems.processes import resident_bytes, tree

ESTABLISHED, LISTENING = "01", "0A"  # states of sockets, as /proc/net/tcp has them


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


def below(root: int, *words: str) -> list[int]:
    """The processes below one in whose command line these words follow each other."""
    wanted, found = "\0".join(["", *words, ""]), []
    for pid in tree(root)[1:]:
        with contextlib.suppress(OSError):  # it has ended
            if wanted in "\0" + Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found.append(pid)
    return found


def sockets(pid: int) -> list[tuple[int, str]]:
    """The local port and the state of each TCP socket of a process; see `LISTENING`."""
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            links.add(str(descriptor.readlink()))
    tables = (Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return [
        (int(line[1].rpartition(":")[2], 16), line[3])
        for line in lines
        if f"socket:[{line[9]}]" in links
    ]


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for the signal."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return bool(int(re.findall(r"SigCgt:\s(\w+)", status)[0], 16) >> (number - 1) & 1)
    return False


class Memory:
    """The resident memory of processes, as it rises above where it was at first."""

    def __init__(self, *processes: int) -> None:
        self._processes = processes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.idle = self.most = self._now()

    @property
    def risen(self) -> int:
        """Bytes, at most."""
        return self.most - self.idle

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        return sum(map(resident_bytes, self._processes))
