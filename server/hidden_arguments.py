"""Starts a program with arguments that its command line does not show.

Linux shows the command line of a process to every user, but its environment and memory to its owner
alone. So a hidden argument goes into the environment, and before the program's first instruction
its argument pointer is set to that place.
"""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PTRACE_TRACEME, PTRACE_DETACH = 0, 17  # from linux/ptrace.h
START_STACK = 28 - 3  # index in /proc/PID/stat, after the name
POINTER = 8  # bytes
PREFIX = "HIDDEN_ARGUMENT_"
SHOWN = "warning: processes cannot be traced here, so tritonserver's command line shows its secret"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def start(
    argv: Sequence[str], secret: str, env: Mapping[str, str], before: Callable[[], object]
) -> subprocess.Popen[bytes]:
    """Start a program, hiding the arguments that contain the secret.

    If the system forbids tracing even of child processes, it shows them and prints a warning.

    Args:
        argv: The command line.
        secret: The text to hide.
        env: The program's environment.
        before: Called in the new process before it executes the program.
    """
    places = [place for place, word in enumerate(argv) if secret in word]
    shown = [word.replace(secret, "hidden") for word in argv]

    def begin() -> None:
        before()
        if _libc.ptrace(PTRACE_TRACEME, 0, None, None):
            raise PermissionError("a process may not be traced here")

    values = {f"{PREFIX}{place}": argv[place] for place in places}
    try:
        process = _started(shown, dict(env) | values, begin)
    except subprocess.SubprocessError:
        print(SHOWN, file=sys.stderr, flush=True)
        return _started(argv, env, before)
    try:
        os.waitpid(process.pid, 0)  # it stops at the first instruction of the program
        _point(process.pid, places)
        _libc.ptrace(PTRACE_DETACH, process.pid, None, None)
    except BaseException:
        process.kill()
        raise
    return process


def _started(
    argv: Sequence[str], env: Mapping[str, str], before: Callable[[], object]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (the launcher's own command)
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        # SIGPIPE stays ignored: the log pipe breaks when the launcher dies, and tritonserver must
        # still stop in order.
        restore_signals=False,
        preexec_fn=before,
    )


def _point(pid: int, places: Sequence[int]) -> None:
    """Point these arguments at their values in the environment.

    The stack begins with the number of arguments, a pointer to each, 0, a pointer to each variable
    of the environment, and 0.
    """
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    start = int(stat[START_STACK])
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:

        def number(address: int) -> int:
            memory.seek(address)
            return int(struct.unpack("=Q", memory.read(POINTER))[0])

        arguments = start + POINTER
        variable = arguments + (number(start) + 1) * POINTER
        wanted = {f"{PREFIX}{place}=".encode(): place for place in places}
        while address := number(variable):
            for name, place in wanted.items():
                memory.seek(address)
                if memory.read(len(name)) == name:
                    memory.seek(arguments + place * POINTER)
                    memory.write(struct.pack("=Q", address + len(name)))
            variable += POINTER
