"""Progress of a long job: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Display:
    """Counts what is done, and shows nothing; a context manager."""

    every_s = math.inf  # between two displays of the counts

    def __init__(self, noun: str = "") -> None:
        self._noun = noun  # what a sample is called
        self._total: int | None = None
        self._already = self._done = self._failed = 0  # samples
        self._parts = self._done_parts = 0
        self._begun = self._shown = time.monotonic()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self._show()

    def note(self, message: str) -> None:
        """Show a line before the start."""

    def start(self, total: int | None, already: int, parts: int, done: int) -> None:
        """Begin.

        Args:
            total: Number of samples, if it is known before they are read.
            already: Number of samples done by earlier runs.
            parts: Number of partitions.
            done: Number of those done by earlier runs.
        """
        self._total, self._parts, self._done_parts = total, parts, done
        self._already = self._done = already

    def advance(self, failed: bool) -> None:
        """Count one more finished sample."""
        self._done += 1
        self._failed += failed
        if time.monotonic() - self._shown >= self.every_s:
            self._show()

    def partition(self) -> None:
        """Count one more finished partition."""
        self._done_parts += 1

    def _show(self) -> None:
        self._shown = time.monotonic()


class _Lines(Display):
    """Prints a line every ten seconds, and one at the end, on standard error."""

    every_s = 10.0

    def note(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def start(self, total: int | None, already: int, parts: int, done: int) -> None:
        super().start(total, already, parts, done)
        if total is None:
            shown = counted(parts, "partition")
            before = f", {done:,} done before" if done else ""
        else:
            shown = counted(total, self._noun)
            before = f", {already:,} done before" if already else ""
        self.note(shown + before)

    def _show(self) -> None:
        super()._show()
        if self._done == self._already:
            return
        rate = (self._done - self._already) / max(1e-9, self._shown - self._begun)
        if self._total is None:
            done = f"{counted(self._done, self._noun)}, {self._done_parts:,} of "
            done += counted(self._parts, "partition")
        else:
            done = f"{self._done:,} of {self._total:,}"
        line = f"{done}, {rate:,.0f}/s, {self._failed:,} failed"
        if self._total is not None and self._done < self._total:
            line += f", about {(self._total - self._done) / rate:,.0f} s left"
        self.note(line)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="cyan")


class _Bar(Display):
    """A bar with the count, the rate, the failures and the remaining time."""

    every_s = 0.1  # an update takes as long as reading a sample

    def __init__(self, noun: str) -> None:
        super().__init__(noun)
        self._progress = Progress(
            TextColumn(f"{noun}s"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[failed]} failed"),
            TextColumn("{task.fields[parts]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=None, failed=0, parts="", start=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        self._progress.stop()

    def note(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)

    def start(self, total: int | None, already: int, parts: int, done: int) -> None:
        super().start(total, already, parts, done)
        self._progress.start_task(self._task)
        self._show()

    def _show(self) -> None:
        super()._show()
        parts = f"{self._done_parts}/{self._parts} partitions" if self._parts > 1 else ""
        self._progress.update(
            self._task, total=self._total, completed=self._done, failed=self._failed, parts=parts
        )


def display_for(noun: str, *, quiet: bool) -> Display:
    """Choose a bar on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return Display(noun)
    return _Bar(noun) if sys.stderr.isatty() else _Lines(noun)


def counted(count: int, noun: str) -> str:
    """Format a count: `1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
