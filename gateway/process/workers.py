"""Several gateway processes behind one pair of ports.

All accept from the one REST socket, and the kernel shares the gRPC port among them. A process
that ends, or whose event loop is silent for too long, is replaced.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from multiprocessing.connection import wait
from pathlib import Path

from gateway.operations.signals import Asked, hold_hang_up
from gateway.process.agreement import Agreement
from gateway.process.serving import END_S
from gateway.process.shared_folder import shared_folder
from gateway.settings import Settings
from gateway.telemetry.metrics import FOLDER

COMMAND = (sys.executable, "-m", "gateway.process.worker")
SILENT_S = 60.0  # a process that is only slow to be scheduled must not be taken for hung
START_S = 300.0  # until a process must serve
PAUSE_S = 1.0  # between a process that could not start and the next
NOT_YET = 75  # exit code of a process that may start later
KILL_S = 4.0  # after a process should have ended by itself, its last lines written
TICK_S = 1.0

logger = logging.getLogger(__name__)


def run(settings: Settings, listener: socket.socket) -> int:
    """Serves with `settings.workers` processes until SIGINT or SIGTERM; returns the exit code.

    Raises:
        OSError: A process cannot be started, or there is no temporary folder for them.
    """
    with shared_folder() as folder, Asked() as asked:
        environment = os.environ | {
            FOLDER: str(folder),  # read where prometheus_client is imported
            "GATEWAY_GRPC_PORT": str(settings.grpc_port),
        }
        return _Workers(settings, listener, environment, asked).run()


class _Workers:
    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        environment: Mapping[str, str],
        asked: Asked,
    ) -> None:
        self._limit_s = settings.drain_s + END_S + KILL_S
        self._listener = listener
        self._environment = environment
        self._asked = asked
        self._served = False
        self._all = [self._started() for _ in range(settings.workers)]

    def _started(self) -> "_Worker":
        # Who cleans up behind our back takes the counts so far, but not the service.
        Path(self._environment[FOLDER]).mkdir(mode=0o700, exist_ok=True)
        return _Worker(self._listener, self._environment)

    def run(self) -> int:
        while True:
            before = time.monotonic()
            self._wait(self._all, TICK_S)
            # Time that this process was itself stopped for counts against no other.
            passed_s = min(time.monotonic() - before, 2 * TICK_S)
            for number in self._asked.numbers():
                if number != signal.SIGHUP:
                    return self._stop()
                for worker in self._all:
                    worker.signal(number)
            for index, worker in enumerate(self._all):
                if worker.lives(passed_s):
                    self._served |= worker.served
                elif self._served or worker.code == NOT_YET or (worker.code or 0) < 0:
                    self._replace(index)
                else:
                    self._stop()
                    return 1

    def _wait(self, workers: Iterable["_Worker"], seconds: float) -> None:
        """Until a signal came, or one of the processes told something or ended."""
        open_ends = (worker.fileno() for worker in workers if worker.code is None)
        wait([self._asked.fileno(), *open_ends], seconds)

    def _replace(self, index: int) -> None:
        gone = self._all[index]
        if not any(worker.served and worker.code is None for worker in self._all):
            Agreement(Path(self._environment[FOLDER])).end()
        if not gone.served:
            self._wait([], PAUSE_S)
        try:
            self._all[index] = self._started()
        except OSError as error:
            logger.error("a worker process cannot be started: %s", error)
            self._wait([], PAUSE_S)
        else:
            logger.warning(
                "worker process %d ended with %d; another was started", gone.pid, gone.code
            )

    def _stop(self) -> int:
        # From now on a client that knocks is refused: this process accepts nobody, but would hold
        # the socket open.
        self._listener.close()
        left = asked = [worker for worker in self._all if worker.lives()]
        for worker in left:  # who serves nobody yet has nothing to end
            worker.signal(signal.SIGTERM if worker.served else signal.SIGKILL)
        deadline = time.monotonic() + self._limit_s
        while left and time.monotonic() < deadline:
            self._wait(left, deadline - time.monotonic())
            for number in self._asked.numbers():  # a second Ctrl-C: at once
                for worker in left:
                    worker.signal(number)
            left = [worker for worker in left if worker.lives()]
        for worker in left:
            worker.kill("does not end")
        return 1 if left or any(worker.served and worker.code for worker in asked) else 0


class _Worker:
    """A process that serves, and the pipe on which it tells that it does."""

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self._beats, theirs = os.pipe()
        os.set_blocking(self._beats, False)
        inherited = listener.fileno(), theirs
        command = [*COMMAND, *map(str, (*inherited, os.getpid()))]
        try:
            with hold_hang_up():
                self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                    command, env=environment, pass_fds=inherited
                )
        except OSError:
            os.close(self._beats)
            raise
        finally:
            os.close(theirs)
        self._silent_s = 0.0
        self.pid = self._process.pid
        self.served = False
        self.code: int | None = None  # how it ended; below zero by a signal

    def fileno(self) -> int:
        """Can be read from when the process has told something, or has ended."""
        return self._beats

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def lives(self, passed_s: float = 0.0) -> bool:
        """Whether the process goes on; it is killed when it was silent for too long.

        Args:
            passed_s: Seconds since this was last asked.
        """
        if self.code is not None:
            return False
        try:
            beats = os.read(self._beats, 65_536)
        except BlockingIOError:
            self._silent_s += passed_s
            if self._silent_s > (SILENT_S if self.served else START_S):
                self.kill("does not answer")
        else:
            if beats:
                self._silent_s, self.served = 0.0, True
            else:
                self._ended()
        return self.code is None

    def kill(self, why: str) -> None:
        logger.error("worker process %d %s; it is killed", self.pid, why)
        self._process.kill()
        self._ended()

    def _ended(self) -> None:
        self.code = self._process.wait()
        os.close(self._beats)
