"""Waits for what another process does in its own time."""

import time
from collections.abc import Callable

WITHIN_S = 20.0


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Returns once it holds; fails with these words where it does not in time."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
