"""Print the stacks of all tasks and threads of this process."""

import asyncio
import gc
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, FrameType
from typing import Any

_FRAME = "cr_frame", "gi_frame", "ag_frame"
_AWAITED = "cr_await", "gi_yieldfrom", "ag_await"


def stacks(loop: asyncio.AbstractEventLoop | None) -> str:
    """The stacks of every task of an event loop and of every thread; callable from any thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = [
        f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    tasks = asyncio.all_tasks(loop) if loop else set()
    standing = (
        f"{task!r}\n{''.join(traceback.StackSummary.extract(_awaits(task)).format())}"
        for task in tasks
    )
    return "\n".join([*standing, *threads])


def _awaits(task: asyncio.Task[Any]) -> Iterator[tuple[FrameType, int]]:
    """The frames of a task's coroutine and of all that it awaits; `Task.get_stack` has one."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = _first(awaited, _FRAME)
        if frame is not None:
            yield frame, frame.f_lineno
            awaited = _first(awaited, _AWAITED)
        else:  # a step of an asynchronous generator has no attribute for it
            held = gc.get_referents(awaited)
            awaited = next((each for each in held if isinstance(each, AsyncGeneratorType)), None)


def _first(found: object, names: Iterable[str]) -> Any:  # noqa: ANN401 - of several kinds
    return next((value for name in names if (value := getattr(found, name, None))), None)
