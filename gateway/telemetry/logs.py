"""The log: JSON or plain lines on standard error, written by a separate thread.

Logging's `QueueHandler` and `QueueListener` do not fit: `stop` waits for a pipe without a reader,
and a line costs 45 us of CPU with a bounded queue; here it costs 5 to 12.
"""

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import orjson

from gateway.telemetry.record import Record, fields

PAUSE_S = 0.1
LAST_S = 2.0  # longest delay of the process's end by a pipe without a reader
MOST_WAITING = 10_000
# Loggers that report what clients send: misplaced bytes of forms, odd images, headers in full.
OF_CLIENTS = ("python_multipart", "PIL", "opentelemetry.trace")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, str | int | float] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            # A file name may hold bytes that are not text, which JSON cannot hold.
            "message": record.getMessage().encode(errors="backslashreplace").decode(),
        }
        line |= _request_fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """ISO 8601, UTC, milliseconds."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class ConsoleFormatter(logging.Formatter):
    """For people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        shown = " ".join(
            f"{k}={v}" for k, v in _request_fields(record).items() if k not in {"operation", "code"}
        )
        return f"{super().format(record)} {shown}".rstrip()


def _request_fields(record: logging.LogRecord) -> dict[str, str | int | float]:
    """The request's part of a line, formatted in the writing thread."""
    request: Record | None = getattr(record, "request", None)
    return {} if request is None else fields(request)


@contextmanager
def logging_to_stderr(level: str, style: str) -> Iterator[None]:
    """Set up the log for a `with` block, at this level and in this format (json or console)."""
    handler = _Batches(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    # Libraries log clients' headers and addresses at `debug`.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("gateway").setLevel(level.upper())
    for name in OF_CLIENTS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_not_of_bytes)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _not_of_bytes(record: logging.LogRecord) -> bool:
    """Whether gRPC reports anything but a path or metadata that is not UTF-8, perhaps a key."""
    return not (record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError))


class _Batches(logging.Handler):
    """Passes lines to a thread, so that a slow terminal or pipe does not block the event loop.

    The thread writes a line `PAUSE_S` after it arrived, together with later ones: waking it for
    each line would cost more than the line. A warning is written at once. While `MOST_WAITING`
    lines wait, new ones are dropped.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._waiting: deque[logging.LogRecord] = deque()
        self._some = threading.Event()
        self._urgent = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def createLock(self) -> None:  # noqa: N802 - logging's name
        self.lock = None  # a deque needs none

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(record)
        if record.levelno >= logging.WARNING:
            self._urgent.set()
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Write the waiting lines, unless the pipe has no reader."""
        self._closing = True
        self._urgent.set()
        self._some.set()
        self._thread.join(LAST_S)
        super().close()

    def format(self, record: logging.LogRecord) -> str:
        """The formatted line; a record that cannot be formatted becomes a line that says so."""
        try:
            return super().format(record)
        except Exception as error:  # a caller may have put anything into it
            return f"{record.name}: a line could not be formatted: {error!r}"

    def _run(self) -> None:
        closing = False
        while not closing:
            self._some.wait()
            self._urgent.wait(PAUSE_S)
            self._some.clear()  # before the lines are taken: a later line sets it again
            self._urgent.clear()
            closing = self._closing  # read before the lines, so that the last ones are written
            lines = [self.format(self._waiting.popleft()) for _ in range(len(self._waiting))]
            if lines:
                with contextlib.suppress(OSError):  # no reader: that must not end the log
                    _write(lines)


def _write(lines: list[str]) -> None:
    """Write to standard error, past Python's buffer, whose lock could delay the process's end."""
    for chunk in _chunks(f"{line}\n".encode(errors="backslashreplace") for line in lines):
        data = chunk
        while data and sys.stderr:  # missing in a process that was started without it
            data = data[os.write(sys.stderr.fileno(), data) :]


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Group lines into chunks that a pipe accepts whole: other processes write to it as well."""
    chunk = b""
    for line in lines:
        if chunk and len(chunk) + len(line) > select.PIPE_BUF:
            yield chunk
            chunk = b""
        chunk += line
    yield chunk
