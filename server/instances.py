"""Detects a model instance that has died under a running tritonserver.

Triton reaps the stubs it stops itself, but not one that crashed or was killed: from 24.06 on it
neither restarts it nor reports the model as not ready, and every request to it fails. The dead
stub stays tritonserver's child as a zombie.
"""

import os
from dataclasses import dataclass, field

from server.runtime import STUB

ZOMBIE = "Z"
COMMAND = STUB[:15]  # the kernel keeps 15 characters of it
NAME = 8  # index of the instance's name in the stub's command line
SEARCH_EVERY = 10  # polls: tritonserver has dozens of threads, each with a list of children


@dataclass(slots=True)
class InstanceWatch:
    """Watches tritonserver's children; poll it about once a second."""

    tritonserver: int  # process id
    _names: dict[int, str] = field(default_factory=dict)
    _zombies: set[int] = field(default_factory=set)
    _polls: int = 0

    def dead(self) -> str | None:
        """Name of an instance that is a zombie for the second poll in a row, or None."""
        zombies = set()
        search = self._polls % SEARCH_EVERY == 0
        self._polls += 1
        for pid in self._children() if search else {*self._names, *self._zombies}:
            try:
                before, _, after = _read(f"/proc/{pid}/stat").rpartition(")")
                state, parent, *_ = after.split()
                if int(parent) != self.tritonserver:  # the number is another process's by now
                    self._names.pop(pid, None)
                elif state != ZOMBIE:
                    self._remember(pid)
                elif before.endswith(COMMAND):
                    zombies.add(pid)
            except OSError:
                self._names.pop(pid, None)  # reaped meanwhile
        # Triton takes a moment to reap a stub that it stops itself.
        lasting = zombies & self._zombies
        self._zombies = zombies
        return self._names.get(min(lasting), "of unknown name") if lasting else None

    def _children(self) -> list[int]:
        try:
            threads = [each.path for each in os.scandir(f"/proc/{self.tritonserver}/task")]
        except OSError:
            return []  # tritonserver has ended, which the guard is about to notice
        found: list[int] = []
        for thread in threads:
            try:
                found += map(int, _read(f"{thread}/children").split())
            except OSError:
                continue  # the thread has ended
        return found

    def _remember(self, pid: int) -> None:
        if pid in self._names:
            return
        command = _read(f"/proc/{pid}/cmdline").split("\0")
        if len(command) > NAME and command[0].endswith(STUB):
            self._names[pid] = command[NAME]


def _read(path: str) -> str:
    """Read a file of /proc with plain system calls, since tritonserver has dozens of threads."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 2**16).decode(errors="replace")
    finally:
        os.close(file)
