"""What the gateway does when a signal comes, besides what uvicorn does.

A process holds SIGHUP back from its start (`hold_hang_up`) until there is something to reload:
that it is sent a little early must not end it, nor be forgotten.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

Handler = Callable[[int, FrameType | None], object]

_HANG_UP = {signal.SIGHUP}


@contextmanager
def hold_hang_up() -> Iterator[None]:
    """Processes that are started in the block hold SIGHUP back, as this one does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANG_UP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Asked:
    """SIGHUP, SIGINT and SIGTERM as they come, to be waited for like what can be read."""

    def __enter__(self) -> Self:
        """Takes the signals, and those of them that were held back."""
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._writer)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # its number is written to the pipe
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANG_UP)
        return self

    def __exit__(self, *_: object) -> None:
        """Signals are forgotten from now on; the process is about to end."""
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """Can be read from when a signal came."""
        return self._reader

    def numbers(self) -> bytes:
        """Those that came since this was last asked."""
        try:
            return os.read(self._reader, 4096)
        except BlockingIOError:
            return b""


@contextmanager
def told(reload: Callable[[], None], drain: Callable[[], None]) -> Iterator[None]:
    """Calls `reload` on SIGHUP, and `drain` as soon as SIGTERM or SIGINT asks for the end.

    Both are called on the running event loop. uvicorn closes its own sockets first, and only when
    they have drained does it end the lifespan, which other servers learn of too late. Outside the
    main thread, where no signal arrives, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def chained(before: Handler) -> Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(drain)
            before(number, frame)

        return handle

    def hang_up(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(reload)

    replaced: dict[signal.Signals, tuple[Any, Handler]]
    replaced = {signal.SIGHUP: (signal.signal(signal.SIGHUP, hang_up), hang_up)}
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if callable(before):
            ours = chained(before)
            replaced[number] = (signal.signal(number, ours), ours)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANG_UP)
    try:
        yield
    finally:
        for number, (old, ours) in replaced.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, old)
