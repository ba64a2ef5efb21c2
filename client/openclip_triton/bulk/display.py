"""Progress of a long run: a bar on a terminal, plain lines elsewhere."""

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


class Display(AbstractContextManager["Display"], Protocol):
    """Shows progress; a context manager."""

    def start(self, total: int, already: int) -> None:
        """Begin with the number of items, and of those done by earlier runs."""

    def advance(self, *, failed: bool) -> None:
        """Count one more finished item."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def start(self, total: int, already: int) -> None:
        """Show nothing."""

    def advance(self, *, failed: bool) -> None:
        """Show nothing."""


class Lines(Silent):
    """Prints a line every ten seconds, and one at the end, on standard error."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._total = self._done = self._failed = self._already = 0
        self._begun = self._reported = time.monotonic()

    def __exit__(self, *_: object) -> None:
        if self._done > self._already:
            self._report()

    def start(self, total: int, already: int) -> None:
        """Print the number of items, and of those done before."""
        self._total, self._done, self._already = total, already, already
        before = f", {already:,} done before" if already else ""
        print(
            f"{total:,} {self._noun}{'' if total == 1 else 's'}{before}",
            file=sys.stderr,
            flush=True,
        )

    def advance(self, *, failed: bool) -> None:
        """Count the item; print a line every ten seconds."""
        self._done += 1
        self._failed += failed
        if time.monotonic() - self._reported >= LINE_EVERY_S:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        rate = (self._done - self._already) / max(1e-9, self._reported - self._begun)
        left = (self._total - self._done) / max(1e-9, rate)
        line = f"{self._done:,} of {self._total:,}, {rate:,.0f}/s, {self._failed:,} failed"
        ending = f", about {left:,.0f} s left" if self._done < self._total else ""
        print(line + ending, file=sys.stderr, flush=True)


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
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=None, failed=0, start=False)
        self._failed = 0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, total: int, already: int) -> None:
        """Show the number of items, and of those done before."""
        self._progress.start_task(self._task)
        self._progress.update(self._task, total=total, completed=already)

    def advance(self, *, failed: bool) -> None:
        """Advance the bar."""
        self._failed += failed
        self._progress.update(self._task, advance=1, failed=self._failed)


def display_for(noun: str, *, quiet: bool) -> Display:
    """Choose a bar on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return Silent()
    return Bar(noun) if sys.stderr.isatty() else Lines(noun)
