"""Messages of a TensorRT build."""

import functools
import re
from collections import deque
from collections.abc import Iterable
from types import ModuleType
from typing import Any

Foreign = Any  # an object of a TensorRT module, which is known at run time only

LINES = 200  # messages kept
LAST = 4  # messages shown
_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|could not be allocated", re.IGNORECASE)
_PLACE = re.compile(r"\[\w+\.cpp[^\]]*\] *|\(?In \w+ at /[^)]*\)*")  # in TensorRT's own source
# Harmless messages of a build ahead of time without a GPU.
_NO_GPU = re.compile(r"CUDA driver version is insufficient|no CUDA-capable device")


class Messages:
    """Warnings and errors of the current build."""

    def __init__(self) -> None:
        """Start without messages."""
        self._kept: deque[tuple[bool, str]] = deque(maxlen=LINES)  # whether an error; the text

    def add(self, text: str, *, error: bool) -> None:
        """Add one message."""
        self._kept.append((error, text))

    def clear(self) -> None:
        """Forget all messages."""
        self._kept.clear()

    def out_of_memory(self) -> bool:
        """Whether memory ran out; TensorRT has no code for it, only messages."""
        return any(_MEMORY.search(text) for _, text in self._kept)

    def why(self) -> str:
        """The errors, or else the warnings, as one line."""
        errors = [text for error, text in self._kept if error]
        warnings = [text for error, text in self._kept if not error]
        return plain(errors) or plain(warnings) or "it gives no reason"


def plain(lines: Iterable[str]) -> str:
    """Join TensorRT's last messages to one line, without places in its source code."""
    bare = [" ".join(_PLACE.sub("", line).split()) for line in lines if not _NO_GPU.search(line)]
    distinct = dict.fromkeys(line for line in bare if line not in ("", "false"))
    return "; ".join(line[:300] for line in list(distinct)[-LAST:])


@functools.cache
def messages_of(trt: ModuleType) -> tuple[Messages, Foreign]:
    """The messages of a TensorRT module, and the logger that collects them.

    There is one per process: TensorRT keeps the first logger that it gets, and calls it even after
    the builder is gone.
    """
    messages = Messages()
    severity = trt.ILogger.Severity

    def log(_: object, level: object, text: str) -> None:
        if level in (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING):
            messages.add(text, error=level != severity.WARNING)

    return messages, type("Logger", (trt.ILogger,), {"log": log})()
