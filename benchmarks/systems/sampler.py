"""`python -m benchmarks.systems.sampler FILE MODULE`: profiles the CPU time of a Python module.

SIGUSR1 resets the counts, SIGUSR2 writes them to FILE. In between, a timer that runs on the
process's CPU time interrupts the main thread, and attributes the CPU time that the main thread has
used since the last interrupt to the code that it is in. So the parts add up exactly to the main
thread's CPU time, and waiting code costs nothing. For other threads the kernel's own count of CPU
time is used.

The interrupt is handled between two bytecodes: time in a C function counts for the Python code that
called it, and time in the event loop's own C code for the callback that runs next.
"""

import json
import runpy
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.systems.processes import PROC, TICKS

INTERVAL = 0.001  # seconds of CPU time; the kernel's own tick, 1 to 10 ms, is the least
DEPTH = 60  # frames looked at, from the innermost


class Sampler:
    """Counts CPU time by stack of modules."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self._last = 0.0
        self._threads: dict[str, float] = {}

    def install(self) -> None:
        """Set the three signals; call it in the main thread."""
        signal.signal(signal.SIGUSR1, self._start)
        signal.signal(signal.SIGUSR2, self._stop)
        signal.signal(signal.SIGPROF, self._sample)

    def _start(self, number: int, frame: FrameType | None) -> None:
        self._stacks.clear()
        self._threads = _thread_seconds()
        self._last = time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        now = time.thread_time()
        modules: list[str] = []
        while frame is not None and len(modules) < DEPTH:
            name = str(frame.f_globals.get("__name__", ""))
            # A function of its own may be a stage, such as writing an answer.
            modules.append(f"{name}:{frame.f_code.co_name}")
            frame = frame.f_back
        self._stacks[tuple(modules)] += now - self._last  # type: ignore[assignment]
        self._last = now

    def _stop(self, number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        before = self._threads
        others = {
            name: seconds - before.get(name, 0.0) for name, seconds in _thread_seconds().items()
        }
        stacks = [[list(stack), seconds] for stack, seconds in self._stacks.items()]
        partial = self._output.with_suffix(".partial")
        partial.write_text(json.dumps({"main": stacks, "threads": others}))
        partial.rename(self._output)  # readers see only the complete file


def _thread_seconds() -> dict[str, float]:
    """CPU seconds of all threads except the main one, summed by name."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().native_id
    seconds: Counter[str] = Counter()
    for task in (PROC / "self" / "task").iterdir():
        if int(task.name) == main:
            continue
        try:
            text = (task / "stat").read_text(errors="replace")
        except OSError:
            continue  # it ended while we looked
        fields = text.rpartition(")")[2].split()
        native = text[text.index("(") + 1 : text.rindex(")")]
        name = names.get(int(task.name), f"native {native}")
        seconds[name] += (int(fields[11]) + int(fields[12])) / TICKS  # type: ignore[assignment]
    return dict(seconds)


def main() -> None:
    """Run the module as `python -m` would."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.systems.sampler FILE MODULE")
    output, module = Path(sys.argv[1]), sys.argv[2]
    Sampler(output).install()
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
