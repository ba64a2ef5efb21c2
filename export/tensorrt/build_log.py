"""Messages and progress of a TensorRT build."""

import functools
import re
from collections import deque
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

Foreign = Any  # an object of a TensorRT module, which is known at run time only
Report = Callable[[str, int, int], None]  # phase, steps done, steps in all

LINES = 200  # messages kept
LAST = 4  # messages shown
REPORTS_PER_PHASE = 20
DEPTH = 2  # of reported phases; there are thousands below
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


class Phases:
    """Reports the build's outer phases to a callback; stops the build if the callback raises."""

    def __init__(self, report: Report) -> None:
        """Start without open phases; call `report` for each step."""
        self.raised: BaseException | None = None
        self._report = report
        self._open: dict[str, tuple[int, int]] = {}  # phase -> depth, steps

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Begin a phase."""
        depth = self._open[parent][0] + 1 if parent in self._open else 1
        self._open[phase] = (depth, steps)
        self._notify(phase, 0)

    def say(self, text: str, done: int, steps: int) -> None:
        """Report something that is not a phase of TensorRT."""
        self._open[text] = (1, steps)
        self._notify(text, done)
        self.finish(text)

    def step(self, phase: str, step: int) -> bool:
        """Finish a step of a phase; return whether to continue."""
        self._notify(phase, step + 1)
        return self.raised is None

    def finish(self, phase: str) -> None:
        """End a phase."""
        self._open.pop(phase, None)

    def _notify(self, phase: str, done: int) -> None:
        depth, steps = self._open.get(phase, (DEPTH + 1, 0))
        if depth > DEPTH or done % max(1, steps // REPORTS_PER_PHASE) or self.raised:
            return
        try:
            self._report(phase, done, steps)
        except BaseException as error:  # exceptions cannot pass through C++; raised later
            self.raised = error


def monitor(trt: ModuleType, phases: Phases) -> Foreign:
    """Make an `IProgressMonitor` of this TensorRT module."""
    methods = {
        "phase_start": lambda _, phase, parent, steps: phases.start(phase, parent, steps),
        "step_complete": lambda _, phase, step: phases.step(phase, step),
        "phase_finish": lambda _, phase: phases.finish(phase),
    }
    return type("Monitor", (trt.IProgressMonitor,), methods)()
