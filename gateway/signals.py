"""What the gateway's parts do when a signal comes, besides what uvicorn does."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], object]


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
    try:
        yield
    finally:
        for number, (old, ours) in replaced.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, old)
