"""Supervise several gateway processes behind one pair of ports.

All accept from the one REST socket, and the kernel shares the gRPC port among them. A worker that
dies is replaced. One whose event loop hangs is not noticed here: that is for a liveness probe.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from gateway.operations.signals import ReceivedSignals, hold_hang_up
from gateway.process.serving import END_S
from gateway.process.shared_folder import shared_folder
from gateway.settings import Settings
from gateway.telemetry.metrics import FOLDER

COMMAND = (sys.executable, "-m", "gateway.process.worker")
STEADY_S = 60.0  # a worker that has run this long has started well
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a restart; doubles while workers die young
KILL_S = 4.0  # from the time at which a worker ends itself until it is killed

logger = logging.getLogger(__name__)


def run(settings: Settings, listener: socket.socket) -> int:
    """Serve with `settings.workers` processes until SIGINT or SIGTERM; return the exit code.

    Raises:
        OSError: The first processes cannot be started, or have no temporary folder.
    """
    with shared_folder() as folder, ReceivedSignals() as signals:
        environment = os.environ | {
            FOLDER: str(folder),  # read where prometheus_client is imported
            "GATEWAY_GRPC_PORT": str(settings.grpc_port),
            # Chosen once: a worker that takes another's place must not choose anew.
            "GATEWAY_FASTEST_OF": "",
            "GATEWAY_DEFAULT_MODEL": settings.default_model or "",
            "GATEWAY_MODEL_ALIASES": json.dumps(settings.model_aliases),
        }
        return _Supervisor(settings, listener, environment, signals).run()


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        environment: Mapping[str, str],
        signals: ReceivedSignals,
    ) -> None:
        self._limit_s = settings.drain_s + END_S + KILL_S
        self._listener = listener
        self._environment = environment
        self._signals = signals
        self._workers = [_Worker(self._spawn(waits=False)) for _ in range(settings.workers)]

    def run(self) -> int:
        while True:
            for number in self._signals.wait(self._until_next_restart()):
                if number == signal.SIGHUP:
                    for worker in self._workers:
                        worker.process.send_signal(number)
                elif number != signal.SIGCHLD:
                    return self._stop()
            for worker in self._workers:
                if worker.restart_at is None and worker.process.poll() is not None:
                    worker.died()
                    if worker.failed_first_start:
                        self._stop()
                        return 1
                if worker.restart_at is not None and time.monotonic() >= worker.restart_at:
                    self._restart(worker)

    def _until_next_restart(self) -> float | None:
        """Seconds until a worker is due to be restarted; None while all run."""
        due = [worker.restart_at for worker in self._workers if worker.restart_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _restart(self, worker: "_Worker") -> None:
        others_run = any(each.process.poll() is None for each in self._workers)
        try:
            worker.restarted(self._spawn(waits=others_run))
        except OSError as error:
            logger.error("a worker process cannot be started: %s", error)
            worker.postpone()

    def _spawn(self, *, waits: bool) -> subprocess.Popen[bytes]:
        """Start a process; one that waits serves once it is ready, and others serve until then."""
        # Whoever removes this folder takes the counts so far, but not the service.
        Path(self._environment[FOLDER]).mkdir(mode=0o700, exist_ok=True)
        inherited = self._listener.fileno()
        command = [*COMMAND, *map(str, (inherited, os.getpid(), int(waits)))]
        with hold_hang_up():
            return subprocess.Popen(  # noqa: S603 - our own program, no shell
                command, env=self._environment, pass_fds=[inherited]
            )

    def _stop(self) -> int:
        # This process accepts nobody, but its copy of the socket would keep it open for clients.
        self._listener.close()
        asked = [each.process for each in self._workers if each.process.poll() is None]
        for process in asked:
            process.terminate()
        deadline = time.monotonic() + self._limit_s
        while _running(asked) and (left_s := deadline - time.monotonic()) > 0:
            for number in self._signals.wait(left_s):
                if number != signal.SIGCHLD:  # a second Ctrl-C ends them at once
                    for process in asked:
                        process.send_signal(number)
        for process in _running(asked):
            logger.error("worker process %d does not end; it is killed", process.pid)
            process.kill()
        # A worker that is still starting has no handler yet: the signal itself ends it.
        ended_well = {0, -signal.SIGTERM, -signal.SIGINT}
        return 0 if {process.wait() for process in asked} <= ended_well else 1


def _running(processes: list[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    return [process for process in processes if process.poll() is None]


class _Worker:
    """A process, and when to start the next one in its place."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.restart_at: float | None = None  # None while the process runs
        self._first = True
        self._started = time.monotonic()
        self._pause_s = 0.0

    @property
    def failed_first_start(self) -> bool:
        """Whether the gateway's first process in this place ended by itself, soon, with an error.

        What is wrong then, another attempt does not mend.
        """
        return self._first and not self._was_steady() and (self.process.returncode or 0) > 0

    def died(self) -> None:
        """Plan the restart: at once after a steady run, else after a growing pause."""
        logger.warning("worker process %d ended with %d", self.process.pid, self.process.returncode)
        if self._was_steady():
            self._pause_s, self.restart_at = 0.0, time.monotonic()
        else:
            self.postpone()

    def postpone(self) -> None:
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
        self.restart_at = time.monotonic() + self._pause_s

    def restarted(self, process: subprocess.Popen[bytes]) -> None:
        logger.warning("worker process %d takes its place", process.pid)
        self.process, self.restart_at, self._first = process, None, False
        self._started = time.monotonic()

    def _was_steady(self) -> bool:
        return time.monotonic() - self._started >= STEADY_S
