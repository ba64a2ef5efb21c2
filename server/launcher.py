"""Starts one Triton server, waits until it serves, and stops it without leftovers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from server import health, ports, rundir, secret
from server.command import tritonserver_command
from server.config import Addresses, ServerConfig
from server.errors import ModelLoadError, ServerError, ServerExitedError, StartTimeoutError
from server.guard import INSTANCE_DIED, KILL, SIGNAL_BASE, GuardOrder
from server.repository import PublishedModel, select_models
from server.runtime import find_runtime

LOG_TAIL = 40  # lines kept to explain an unexpected end
POLL = 0.05  # seconds
STOP = b"s"


class TritonServer:
    """A tritonserver process with all its models loaded, as a context manager.

    ``log`` receives each line that Triton and its stubs write, on a separate thread.
    """

    def __init__(self, config: ServerConfig, log: Callable[[str], None] | None = None) -> None:
        """Check the repository, the addresses and the runtime, without starting anything.

        Raises:
            RepositoryError, PortError, RuntimeFilesError: The message says what to do.
        """
        self.models: tuple[PublishedModel, ...] = select_models(
            config.model_repository, config.models
        )
        self.config = ports.claim(replace(config, secret=config.secret or secret.new()))
        self.addresses: Addresses = ports.addresses(self.config)
        self._runtime = find_runtime()
        self._log = log
        self._tail: deque[str] = deque(maxlen=LOG_TAIL)
        self._run: rundir.RunDirectory | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Clean up after dead launches and start tritonserver, without waiting for it."""
        rundir.sweep()
        self._run = rundir.create(self._runtime, self.config.model_repository)
        order = GuardOrder(
            argv=tritonserver_command(self.config, self._runtime, self._run, self._triton_models()),
            secret=self.config.secret,
            env=self._runtime.environment(),
            run_directory=str(self._run.path),
            stop_timeout=self.config.stop_timeout,
        )
        root = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "server.guard"],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone
            pass_fds=[self._run.lock],
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._guard,), daemon=True)
        self._reader.start()
        self._order(json.dumps(asdict(order)).encode() + b"\n")

    def wait_ready(self) -> None:
        """Wait until Triton reports that it is ready.

        With ``exit_on_error`` false, models that failed to load are reported to ``log`` only.

        Raises:
            ModelLoadError: a model did not load; the message gives Triton's reason.
            ServerExitedError: tritonserver ended.
            StartTimeoutError: not ready within the configuration's ``ready_timeout``.
        """
        deadline = time.monotonic() + self.config.ready_timeout
        with health.connect(self.addresses.grpc) as triton:
            # Triton listens only once it has tried to load every model, and on HTTP after gRPC.
            while not (health.is_live(triton) and health.listens(self.addresses.http)):
                if self.wait(POLL) is not None:
                    raise self.exit_error()
                if time.monotonic() > deadline:
                    raise StartTimeoutError(
                        f"Triton was not ready within {self.config.ready_timeout:g} s; its last "
                        f"lines were:\n{self._last_lines()}"
                    )
            unloaded = self._unloaded(triton)
        if not unloaded:
            return
        problem = "\n".join(
            f"model {name} failed to load: {reason}" for name, reason in unloaded.items()
        )
        if self.config.exit_on_error or len(unloaded) == len(self._triton_models()):
            raise ModelLoadError(problem)
        if self._log:
            self._log(problem)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for tritonserver's exit code (128 + signal), or None after ``timeout``."""
        if self._guard is None:
            return 0
        try:
            return self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def exit_error(self) -> ServerExitedError:
        """Error that describes how tritonserver ended by itself."""
        code = self.wait() or 0
        how = f"exited with {code}"
        if code == INSTANCE_DIED:
            how = "was stopped because the process of a model instance died (out of memory?)"
        elif code < 0:
            how = f"lost its guard process, which was killed by {_signal_name(-code)}"
        elif code > SIGNAL_BASE:
            how = f"was killed by {_signal_name(code - SIGNAL_BASE)}"
        if self._reader:
            self._reader.join(1.0)
        return ServerExitedError(f"tritonserver {how}; its last lines were:\n{self._last_lines()}")

    def stop(self) -> None:
        """Stop after the requests in flight; kill after ``stop_timeout``. Idempotent."""
        self._order(STOP)
        self._finish()

    def request_stop(self) -> None:
        """Begin to stop, without waiting; safe in a signal handler."""
        self._order(STOP)

    def kill(self) -> None:
        """Make tritonserver end now, without waiting; safe in a signal handler."""
        self._order(KILL)

    def __enter__(self) -> Self:
        """Start, and wait until ready."""
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.kill()
            self._finish()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _order(self, order: bytes) -> None:
        if self._guard is None or self._guard.stdin is None:
            return  # nothing was started
        try:
            os.write(self._guard.stdin.fileno(), order)
        except (BrokenPipeError, ValueError):
            return  # the guard has ended, and tritonserver with it

    def _finish(self) -> None:
        self.wait()
        if self._run is None:
            return
        rundir.remove(self._run.path)  # left only where the guard itself was killed
        if self._reader:
            self._reader.join()
        if self._guard:
            for pipe in filter(None, (self._guard.stdin, self._guard.stdout)):
                pipe.close()
        os.close(self._run.lock)
        self._run = None

    def _read_log(self, guard: subprocess.Popen[bytes]) -> None:
        for line in guard.stdout or ():
            text = line.decode(errors="replace").rstrip("\n")
            self._tail.append(text)
            try:
                if self._log:
                    self._log(text)
            except OSError:
                self._log = None  # the log has no reader any more, and Triton must not block on it

    def _unloaded(self, triton: InferenceServerClient) -> dict[str, str]:
        """Reason for each requested model that is not ready."""
        try:
            index = triton.get_model_repository_index(
                headers={secret.METADATA: self.config.secret}, client_timeout=health.TIMEOUT
            )
        except InferenceServerException as error:
            raise ServerError(f"Triton does not list its models: {error}") from error
        ready = {model.name for model in index.models if model.state == "READY"}
        # The stub adds a Python traceback.
        reasons = {model.name: model.reason.split("\n\nAt:\n")[0] for model in index.models}
        return {
            name: reasons.get(name, "").strip() or "Triton gives no reason; see its log"
            for name in self._triton_models()
            if name not in ready
        }

    def _triton_models(self) -> list[str]:
        return [name for model in self.models for name in model.triton_models]

    def _last_lines(self) -> str:
        return "\n".join(f"  {line}" for line in self._tail)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
