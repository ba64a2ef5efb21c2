"""Progress of an export: a spinner on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Writes to standard error, so that standard output has only the summary."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._start = time.monotonic()

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """Show a stage while it runs, and when it is done."""
        if self._console.is_terminal:
            with self._console.status(what):
                yield
            self._line(f"{what}: done")
        else:
            self._line(f"{what} ...")
            yield

    def notice(self, text: str) -> None:
        """Show a warning that needs no action."""
        self._line(f"note: {text}")

    def _line(self, text: str) -> None:
        elapsed = time.monotonic() - self._start
        self._console.print(f"[{elapsed:6.1f} s] {text}", markup=False)
