"""Progress of a long job: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import AbstractContextManager
from typing import Protocol

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

LINE_EVERY_S = 10.0
SHOW_EVERY_S = 0.1


class Display(AbstractContextManager["Display"], Protocol):
    """Shows progress; a context manager."""

    def note(self, message: str) -> None:
        """Show a line before the start."""

    def start(self, total: int | None, already: int, parts: int, done: int) -> None:
        """Begin.

        Args:
            total: Number of samples, where it is known before they are read.
            already: Number of those done by earlier runs.
            parts: Number of partitions.
            done: Number of those done by earlier runs.
        """

    def advance(self, failed: bool) -> None:
        """Count one more finished sample."""

    def partition(self) -> None:
        """Count one more finished partition."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, message: str) -> None:
        """Show nothing."""

    def start(self, total: int | None, already: int, parts: int, done: int) -> None:
        """Show nothing."""

    def advance(self, failed: bool) -> None:
        """Show nothing."""

    def partition(self) -> None:
        """Show nothing."""


class Lines(Silent):
    """Prints a line every ten seconds, and one at the end, on standard error."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._total: int | None = None
        self._parts = self._done_parts = 0
        self._done = self._failed = self._already = 0
        self._begun = self._reported = time.monotonic()

    def __exit__(self, *_: object) -> None:
        if self._done > self._already:
            self._report()

    def note(self, message: str) -> None:
        """Print the line."""
        print(message, file=sys.stderr, flush=True)

    def start(self, total: int | None, already: int, parts: int, done: int) -> None:
        """Print the number of samples or partitions, and of those done before."""
        self._total, self._done, self._already = total, already, already
        self._parts, self._done_parts = parts, done
        if total is None:
            shown = _counted(parts, "partition")
            before = f", {done:,} done before" if done else ""
        else:
            shown = _counted(total, self._noun)
            before = f", {already:,} done before" if already else ""
        self.note(shown + before)

    def advance(self, failed: bool) -> None:
        """Count the sample; print a line every ten seconds."""
        self._done += 1
        self._failed += failed
        if time.monotonic() - self._reported >= LINE_EVERY_S:
            self._report()

    def partition(self) -> None:
        """Count the partition."""
        self._done_parts += 1

    def _report(self) -> None:
        self._reported = time.monotonic()
        rate = (self._done - self._already) / max(1e-9, self._reported - self._begun)
        if self._total is None:
            done = f"{_counted(self._done, self._noun)}, {self._done_parts:,} of "
            done += _counted(self._parts, "partition")
        else:
            done = f"{self._done:,} of {self._total:,}"
        line = f"{done}, {rate:,.0f}/s, {self._failed:,} failed"
        if self._total is not None and self._done < self._total:
            left = (self._total - self._done) / max(1e-9, rate)
            line += f", about {left:,.0f} s left"
        self.note(line)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="cyan")


class Bar(Silent):
    """A bar with the count, the rate, the failures and the remaining time."""

    def __init__(self, noun: str) -> None:
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
        self._failed = self._parts = self._done_parts = self._unshown = 0
        self._shown = 0.0  # monotonic seconds

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        self._progress.stop()

    def note(self, message: str) -> None:
        """Print the line above the bar."""
        self._progress.console.print(message, markup=False, highlight=False)

    def start(self, total: int | None, already: int, parts: int, done: int) -> None:
        """Show the number of samples, and of those done before."""
        self._parts, self._done_parts = parts, done
        self._progress.start_task(self._task)
        self._progress.update(self._task, total=total, completed=already, parts=self._of_parts())

    def advance(self, failed: bool) -> None:
        """Advance the bar, a few times a second: an update takes as long as reading a sample."""
        self._failed += failed
        self._unshown += 1
        if time.monotonic() - self._shown >= SHOW_EVERY_S:
            self._show()

    def partition(self) -> None:
        """Count the partition."""
        self._done_parts += 1
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._progress.update(
            self._task, advance=self._unshown, failed=self._failed, parts=self._of_parts()
        )
        self._unshown = 0

    def _of_parts(self) -> str:
        return f"{self._done_parts}/{self._parts} partitions" if self._parts > 1 else ""


def display_for(noun: str, *, quiet: bool) -> Display:
    """Choose a bar on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return Silent()
    return Bar(noun) if sys.stderr.isatty() else Lines(noun)
