"""The log: JSON or plain lines on standard error, written by a thread of their own."""

import logging
import logging.handlers
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager

import orjson


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "request", {})
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
        told = getattr(record, "request", {})
        shown = " ".join(f"{k}={v}" for k, v in told.items() if k not in {"operation", "code"})
        return f"{super().format(record)} {shown}".rstrip()


@contextmanager
def logging_to_stderr(level: str, style: str) -> Iterator[None]:
    """Sets up the log for as long as the block lasts.

    Lines are handed to a thread: a terminal or pipe that is slow must not hold the event loop.

    Args:
        level: debug, info, warning or error.
        style: json or console.
    """
    output = logging.StreamHandler()
    output.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    lines: queue.Queue[logging.LogRecord] = queue.Queue(10_000)
    listener = logging.handlers.QueueListener(lines, output)
    handler = _Lossy(lines)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        listener.stop()


class _Lossy(logging.handlers.QueueHandler):
    """Leaves out lines that find the queue full, rather than holding up requests."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # the queue stays in this process, so nothing need be pickled

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            return
