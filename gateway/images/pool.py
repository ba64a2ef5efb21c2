"""Decodes images in processes of their own, so that a crash in a codec costs one image.

It costs CPU for the way to the process and back, and memory for each; see
`benchmarks/experiments/decode_pool.py`. Bytes go over a socket: at the sizes of real images, what
shared memory would save is lost in the noise of decoding.
"""

import json
import logging
import os
import queue
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from gateway.errors import ImageError
from gateway.images.pool_worker import ANSWER, ERRORS, PIXELS, READY, REQUEST, Closed, received
from gateway.images.preprocess import EXACT, DecodeOptions, ImageLimits
from gateway.models.manifest import Preprocessing
from gateway.models.values import Pixels

COMMAND = (sys.executable, "-m", "gateway.images.pool_worker")
START_S = 60.0  # until a process must be ready
_MAX_MESSAGE = 65_536  # bytes of an error, from a process that need not be trusted

logger = logging.getLogger(__name__)


class DecodePoolError(Exception):
    """A decoder process does not start."""


class DecodePool:
    """Decodes in so many processes. Its calls block: one thread for each process. Thread-safe."""

    def __init__(
        self,
        count: int,
        limits: ImageLimits,
        options: DecodeOptions = EXACT,
        timeout_s: float = 10.0,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Starts the processes, and waits until they are ready.

        Args:
            count: How many.
            limits: What one image may cost.
            options: Where to depart from OpenCLIP's transform.
            timeout_s: Seconds after which a process that has not answered is killed.
            command: What a process runs; it speaks as `gateway.images.pool_worker` does.

        Raises:
            DecodePoolError: One does not start.
        """
        config = json.dumps({"limits": asdict(limits), "options": asdict(options)}).encode()
        self._workers = [_Worker(command, config, timeout_s) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        try:
            for worker in self._workers:
                worker.launch()
            for worker in self._workers:
                worker.wait_ready()
                self._idle.put(worker)
        except BaseException:
            self.close()
            raise

    def __call__(self, data: bytes, rules: Preprocessing) -> Pixels:
        """See `gateway.images.preprocess.preprocess`.

        Raises:
            ImageError: As there; or the process died of this image, or took too long.
            TooLarge: As there.
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
        """Ends the processes; nothing may be decoded any more."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process, and the line to it; started anew when it has died."""

    def __init__(self, command: Sequence[str], config: bytes, timeout_s: float) -> None:
        self._command = command
        self._config = config
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def launch(self) -> None:
        self._line, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, sys.path))
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # a terminal's Ctrl-C ends the gateway, and that ends it
            )
        self._line.sendall(struct.pack(">I", len(self._config)) + self._config)

    def wait_ready(self) -> None:
        if self._process is None:
            self.launch()
        try:
            kind, _ = self._answer(time.monotonic() + START_S)
        except (Closed, OSError) as error:
            self.stop()
            raise DecodePoolError(f"a decoder process does not start: {self._command}") from error
        self._ready = kind == READY

    def decode(self, data: bytes, rules: Preprocessing) -> Pixels:
        if not self._ready:
            self.wait_ready()
        try:
            kind, body = self._asked(data, rules)
        except (Closed, OSError) as error:
            late = isinstance(error, TimeoutError)
            how = f"took over {self._timeout_s:g} s" if late else f"died ({self._end()})"
            logger.warning("the decoder %s on an image of %d bytes", how, len(data))
            self.stop()
            self.launch()
            raise ImageError(f"the image cannot be decoded: its decoder {how}") from error
        if kind == PIXELS:
            size = rules.image_size
            return np.frombuffer(body, np.uint8).reshape(size, size, 3)
        raise ERRORS[kind](body.decode("utf-8", "replace"))

    def stop(self) -> None:
        self._ready = False
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None

    def _asked(self, data: bytes, rules: Preprocessing) -> tuple[int, bytes]:
        if self._line is None:
            raise Closed
        deadline = time.monotonic() + self._timeout_s
        asked = rules.model_dump_json().encode()
        self._line.settimeout(self._timeout_s)
        self._line.sendall(REQUEST.pack(len(asked), len(data)) + asked)
        self._line.sendall(data)
        kind, body = self._answer(deadline)
        if kind not in ERRORS and (kind, len(body)) != (PIXELS, rules.image_size**2 * 3):
            raise Closed  # a process that says nonsense is not to be kept
        return kind, body

    def _answer(self, deadline: float) -> tuple[int, bytes]:
        if self._line is None:
            raise Closed
        self._line.settimeout(max(0.001, deadline - time.monotonic()))
        kind, size = ANSWER.unpack(received(self._line, ANSWER.size))
        if kind != PIXELS and size > _MAX_MESSAGE:
            raise Closed
        self._line.settimeout(max(0.001, deadline - time.monotonic()))
        return kind, received(self._line, size)

    def _end(self) -> str:
        try:
            code = self._process.wait(1.0) if self._process else 0
        except subprocess.TimeoutExpired:
            return "it answered nonsense"
        return f"signal {-code}" if code < 0 else f"exit code {code}"
