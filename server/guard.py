"""The parent process of tritonserver, which cleans up even after a killed launcher.

Started as ``python -m server.guard``, it reads one line of JSON, a ``GuardOrder``, from standard
input and starts tritonserver. Standard input is also its lifeline: a byte on it means stop, and so
does its end, which the kernel causes however the launcher dies. Once tritonserver has ended, the
guard removes its stub processes, shared memory and folder.

It exits with tritonserver's own code, or 128 plus the signal that killed it, or INSTANCE_DIED.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from server import hidden_arguments, rundir
from server.instances import InstanceWatch

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
SIGNAL_BASE = 128
INSTANCE_DIED = 100  # exit code; tritonserver itself exits with 0 or 1
WATCH_INTERVAL = 1.0  # seconds
KILL = b"k"  # on the lifeline: kill tritonserver at once


class InstanceDied(Exception):
    """The process of the model instance with this name ended by itself."""


@dataclass(frozen=True, slots=True)
class GuardOrder:
    """The command to run, and the folder to remove afterwards."""

    argv: list[str]
    secret: str  # hidden from the command line
    env: dict[str, str]
    run_directory: str
    stop_timeout: float  # seconds between SIGTERM and SIGKILL


def run(order: GuardOrder, lifeline: IO[bytes]) -> int:
    """Start tritonserver, wait for its end or the lifeline's, clean up; return the exit code.

    Raises:
        InstanceDied: a model instance died, and tritonserver was killed.
    """
    libc = ctypes.CDLL(None)
    try:
        # If the guard itself is killed, the kernel stops tritonserver.
        process = hidden_arguments.start(
            order.argv,
            order.secret,
            order.env,
            lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        try:
            _wait(process, lifeline, order.stop_timeout)
        finally:
            process.kill()
            code = process.wait()
    finally:
        rundir.remove(Path(order.run_directory))
    return code if code >= 0 else SIGNAL_BASE - code


def _wait(process: subprocess.Popen[bytes], lifeline: IO[bytes], stop_timeout: float) -> None:
    """Return when tritonserver has ended or must be killed."""
    ended, ending = os.pipe()
    threading.Thread(target=_signal_end, args=(process, ending), daemon=True).start()
    watched = [ended, lifeline.fileno()]
    instances = InstanceWatch(process.pid)
    deadline: float | None = None
    while True:
        left = WATCH_INTERVAL if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select(watched, [], [], left)
        if not readable and deadline is None:
            if dead := instances.dead():
                raise InstanceDied(dead)
            continue
        if ended in readable or not readable:
            return
        order = os.read(lifeline.fileno(), 16)
        if KILL in order:
            return
        if not order:  # a closed pipe stays readable
            watched.remove(lifeline.fileno())
        if deadline is None:
            deadline = time.monotonic() + stop_timeout
            process.send_signal(signal.SIGTERM)


def _signal_end(process: subprocess.Popen[bytes], ending: int) -> None:
    process.wait()
    os.write(ending, b".")


def main() -> int:
    """Read the order from standard input and execute it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN: tritonserver would inherit it, and ignore a stop while it loads models.
        signal.signal(number, lambda *_: None)
    lifeline = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 (a descriptor)
    try:
        order = GuardOrder(**json.loads(lifeline.readline()))
    except json.JSONDecodeError:  # the launcher died before it sent an order
        return 1
    try:
        return run(order, lifeline)
    except InstanceDied as died:
        print(f"model instance {died} has died", file=sys.stderr, flush=True)
        return INSTANCE_DIED


if __name__ == "__main__":
    sys.exit(main())
