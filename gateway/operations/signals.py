"""Signals of an operator: reload on SIGHUP, stop on SIGTERM and SIGINT.

A process blocks SIGHUP from its start (`hold_hang_up`) until there is something to reload. So one
that comes early neither ends the process nor is lost.
"""

import asyncio
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

_HANG_UP = {signal.SIGHUP}
_STOPS = signal.SIGINT, signal.SIGTERM


@contextmanager
def hold_hang_up() -> Iterator[None]:
    """Block SIGHUP, here and in processes that are started in the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANG_UP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ReceivedSignals:
    """Queue SIGCHLD, SIGHUP, SIGINT and SIGTERM, for a process without an event loop."""

    def __enter__(self) -> Self:
        """Take these signals, and a SIGHUP that was held until now."""
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer)
        for number in (signal.SIGCHLD, signal.SIGHUP, *_STOPS):
            signal.signal(number, lambda *_: None)  # Python writes its number to the pipe
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANG_UP)
        return self

    def __exit__(self, *_: object) -> None:
        """Ignore them from now on; the process is about to end."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGHUP, *_STOPS):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float | None) -> bytes:
        """Return the numbers of the signals that came; empty after this time without one."""
        select.select([self._reader], [], [], seconds)
        try:
            return os.read(self._reader, 4096)
        except BlockingIOError:
            return b""


@contextmanager
def hang_up_handled(reload: Callable[[], object]) -> Iterator[None]:
    """Call `reload` on the event loop at each SIGHUP, also at one that was held until now.

    Outside the main thread, where no signal arrives, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(reload))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANG_UP)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
