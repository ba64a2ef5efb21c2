"""Modules run as programs without the time that their imports take: forks of a process with them.

A fork differs from `python -m MODULE` in its command line alone: a test of start or of memory runs
the command.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What the modules that are run import; gateway.__main__ sets the variable below before numpy.
SERVING = (
    "gateway.settings",
    "gateway.process.start",
    "openclip_triton.command.cli",
    "typer.rich_utils",
)
EXPORTING = ("export.command.pipeline", "export.command.summary", "tests.export.traces")
IMPORTED = {"gateway": SERVING, "openclip_triton": SERVING, "tests.export.traced": EXPORTING}
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}
STATUS = struct.Struct("i")
REQUEST_BYTES = 2**17


class Fork:
    """A process that runs a module, with what tests use of `subprocess.Popen`."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        cwd: Path = ROOT,
        streams: Sequence[int] = (0, 1, 2),
    ) -> None:
        """Start it with these file descriptors as its standard input, output and errors."""
        self._code: int | None = None
        self._status, status = socket.socketpair()
        request = [module, *arguments], dict(environment), str(cwd)
        with status:
            fds = [*streams, status.fileno()]
            socket.send_fds(_forks(IMPORTED[module]), [json.dumps(request).encode()], fds)
        self.pid = self._received(None)

    def _received(self, timeout: float | None) -> int:
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("fork", timeout or 0)
        number: int
        [number] = STATUS.unpack(self._status.recv(STATUS.size))
        return number

    def poll(self) -> int | None:
        """The exit code, once it has ended; negative: the signal that ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float) -> int:
        """Return the exit code.

        Raises:
            subprocess.TimeoutExpired: It has not ended in this time.
        """
        if self._code is None:
            self._code = self._received(timeout)
            self._status.close()
        return self._code

    def terminate(self) -> None:
        """SIGTERM, unless it has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@cache
def _forks(imported: tuple[str, ...]) -> socket.socket:
    """The connection to a process with these imports, which forks; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), *imported],
            cwd=ROOT, env=os.environ | ENVIRONMENT, pass_fds=[theirs.fileno()],
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _main() -> None:
    for name in sys.argv[2:]:
        __import__(name)
    gc.collect()
    gc.freeze()  # forks neither search nor copy what they share
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        forked = _serve(requests)
    if forked:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _serve(requests: socket.socket) -> bool:
    """Forks for each request; true in a fork, false where there are no more requests."""
    running: dict[int, int] = {}  # where the status of each process is waited for
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        readable, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _report(running)
            continue
        message, streams, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 4)
        if not message:
            return False
        status = streams.pop()
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            for fd in (woken, wakes, *running.values(), status):
                os.close(fd)
            arguments, environment, cwd = json.loads(message)
            _become(arguments, environment, cwd, streams)
            return True
        running[pid] = status
        os.write(status, STATUS.pack(pid))
        for fd in streams:
            os.close(fd)


def _report(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        fd = running.pop(pid)
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(fd, STATUS.pack(os.waitstatus_to_exitcode(status)))
        os.close(fd)


def _become(
    arguments: list[str], environment: dict[str, str], cwd: str, streams: list[int]
) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # which the imported may have looked up
    sys.argv = arguments


if __name__ == "__main__":
    _main()
