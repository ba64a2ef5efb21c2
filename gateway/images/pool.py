"""Decodes images in separate processes, so that a crash in a codec costs one image.

The transfer costs CPU, and each process costs memory; docs/operations.md has the figures. Bytes go
over a socket: at the sizes of real images, the savings of shared memory are lost in the noise of
decoding. The standard library's process pool does not fit: one process that dies breaks the whole
pool, and its tasks have no time limit.
"""

import logging
import os
import queue
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np

from gateway.errors import ImageError
from gateway.images.pool_worker import ERRORS, PIXELS, READY
from gateway.images.preprocess import EXACT, DecodeOptions, ImageLimits
from gateway.models.manifest import Preprocessing
from gateway.models.values import Pixels

COMMAND = (sys.executable, "-m", "gateway.images.pool_worker")
START_S = 60.0  # within which a process must be ready
_MAX_MESSAGE = 65_536  # bytes of a message that holds no pixels: the process is not trusted

logger = logging.getLogger(__name__)


class DecodePoolError(Exception):
    """A decoder process did not start."""


class DecodePool:
    """Decodes in several processes. Its calls block: one thread for each process. Thread-safe."""

    def __init__(
        self,
        count: int,
        limits: ImageLimits,
        options: DecodeOptions = EXACT,
        timeout_s: float = 10.0,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Start the processes, and wait until they are ready.

        Args:
            count: Number of processes.
            limits: What one image may cost.
            options: Where to depart from OpenCLIP's transform.
            timeout_s: Seconds after which a process that has not answered is killed.
            command: What a process runs; it speaks as `gateway.images.pool_worker` does.

        Raises:
            DecodePoolError: One does not start.
        """
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        try:
            for _ in range(count):
                self._workers.append(_Worker(command, (limits, options), timeout_s))
            for worker in self._workers:
                worker.wait_ready()
                self._idle.put(worker)
        except BaseException:
            self.close()
            raise

    def __call__(self, data: bytes, rules: Preprocessing) -> Pixels:
        """See `gateway.images.preprocess.preprocess`.

        Also raises `ImageError` for an image that kills its process, or that takes too long.
        """
        worker = self._idle.get()
        try:
            return worker.decode(data, rules)
        finally:
            self._idle.put(worker)

    def processes(self) -> list[int]:
        """The ids of the processes."""
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """End the processes; the pool cannot be used afterwards."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process and the connection to it; restarted after it has died."""

    def __init__(
        self, command: Sequence[str], config: tuple[ImageLimits, DecodeOptions], timeout_s: float
    ) -> None:
        self._command = command
        self._config = config
        self._timeout_s = timeout_s
        self._launch()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _launch(self) -> None:
        self._ready = False
        ours, theirs = socket.socketpair()
        seconds, fraction = divmod(self._timeout_s, 1)
        limit = struct.pack("ll", int(seconds), int(fraction * 1_000_000))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._connection = Connection(ours.detach())
        path = os.pathsep.join(filter(None, sys.path))
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C ends the gateway, which ends this
            )

    def wait_ready(self) -> None:
        if self._ready:
            return
        connection = self._connection
        try:
            connection.send(self._config)
            if not connection.poll(START_S) or _received(connection) != (READY, b""):
                raise EOFError
        except (EOFError, OSError) as error:
            self._restart()
            raise DecodePoolError(f"a decoder process does not start: {self._command}") from error
        self._ready = True

    def decode(self, data: bytes, rules: Preprocessing) -> Pixels:
        self.wait_ready()
        size = rules.image_size
        try:
            self._connection.send(rules)
            self._connection.send_bytes(data)
            kind, content = _received(self._connection, size * size * 3)
            if kind not in ERRORS and (kind, len(content)) != (PIXELS, size * size * 3):
                raise EOFError  # a process that sends invalid answers is not kept
        except (EOFError, OSError) as error:
            late = isinstance(error, BlockingIOError)
            how = f"took over {self._timeout_s:g} s" if late else f"died ({self._end()})"
            logger.warning("the decoder %s on an image of %d bytes", how, len(data))
            self._restart()
            raise ImageError(f"the image cannot be decoded: its decoder {how}") from error
        if kind == PIXELS:
            return np.frombuffer(content, np.uint8).reshape(size, size, 3)
        raise ERRORS[kind](content.decode("utf-8", "replace"))

    def stop(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _restart(self) -> None:
        self.stop()
        self._launch()

    def _end(self) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it sent an invalid answer"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _received(connection: Connection, pixels: int = 0) -> tuple[bytes, bytes]:
    """The kind of an answer, and its content; BlockingIOError if none arrives in time."""
    kind = connection.recv_bytes(_MAX_MESSAGE)
    return kind, connection.recv_bytes(max(pixels, _MAX_MESSAGE))
