"""The log: JSON or plain lines on standard error, written by a thread of their own.

Logging's `QueueHandler` and `QueueListener` do not fit: `stop` waits for a pipe that nobody reads,
and a line costs 45 us of CPU with a bounded queue, where it costs 5 to 12 here.
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
LAST_S = 2.0  # by which a pipe that nobody reads delays the end of the process, at most
MOST_WAITING = 10_000


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, str | int | float] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            # A file's name may be no text, which JSON does not take.
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
    """What a line says of a request, put together in the writing thread."""
    request: Record | None = getattr(record, "request", None)
    return {} if request is None else fields(request)


@contextmanager
def logging_to_stderr(level: str, style: str) -> Iterator[None]:
    """Sets up the log, at this level and as json or console, for as long as the block lasts."""
    handler = _Batches(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    # Libraries log clients' headers and addresses at `debug`.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("gateway").setLevel(level.upper())
    # At `warning` it reports each byte of a form that is not where it should be.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


class _Batches(logging.Handler):
    """Hands lines to a thread: a slow terminal or pipe must not hold up the event loop.

    The thread writes a line `PAUSE_S` after it came, with those that came since: waking it for each
    line would cost more than the line. A warning is written at once. With `MOST_WAITING` lines
    waiting, new ones are left out.
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
        """Writes what waits, unless nobody reads it."""
        self._closing = True
        self._urgent.set()
        self._some.set()
        self._thread.join(LAST_S)
        super().close()

    def format(self, record: logging.LogRecord) -> str:
        """The line; a record that cannot be formatted costs itself alone."""
        try:
            return super().format(record)
        except Exception as error:  # whatever a caller has put into it
            return f"{record.name}: a line could not be formatted: {error!r}"

    def _run(self) -> None:
        closing = False
        while not closing:
            self._some.wait()
            self._urgent.wait(PAUSE_S)
            self._some.clear()  # before the lines are taken: one that comes meanwhile sets it anew
            self._urgent.clear()
            closing = self._closing  # read before the lines, so that the last ones are written
            lines = [self.format(self._waiting.popleft()) for _ in range(len(self._waiting))]
            if lines:
                with contextlib.suppress(OSError):  # nobody reads: that must not end the log
                    _write(lines)


def _write(lines: list[str]) -> None:
    """To standard error; past Python's buffer, whose lock would hold up the end of the process."""
    for chunk in _chunks(f"{line}\n".encode(errors="backslashreplace") for line in lines):
        data = chunk
        while data and sys.stderr:  # which a process that began without it has not
            data = data[os.write(sys.stderr.fileno(), data) :]


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines together, as many as a pipe takes whole: other processes write to it as well."""
    chunk = b""
    for line in lines:
        if chunk and len(chunk) + len(line) > select.PIPE_BUF:
            yield chunk
            chunk = b""
        chunk += line
    yield chunk
