"""Progress of an export: a spinner on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console


class Progress:
    """Writes to standard error, so that standard output has only the summary."""

    def __init__(self) -> None:
        """Start the clock."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._start = time.monotonic()

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """Show a stage while it runs, and when it is done."""
        if not self._console.is_terminal:
            self._line(f"{what} ...")
        with self._spinner(what):
            yield
        if self._console.is_terminal:
            self._line(f"{what}: done")

    def notice(self, text: str) -> None:
        """Show a warning that needs no action."""
        self._line(f"note: {text}")

    def _spinner(self, what: str) -> AbstractContextManager[object]:
        return self._console.status(what) if self._console.is_terminal else nullcontext()

    def _line(self, text: str) -> None:
        elapsed = time.monotonic() - self._start
        self._console.print(f"[{elapsed:6.1f} s] {text}", markup=False)
        sys.stderr.flush()
