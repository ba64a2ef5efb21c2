"""Work side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


async def gather(work: Iterable[Awaitable[T]]) -> list[T]:
    """Awaits everything side by side; the first failure cancels what has not ended."""
    awaitables = list(work)
    if len(awaitables) == 1:
        return [await awaitables[0]]  # a task of its own would be for nothing
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def both(one: Awaitable[A], other: Awaitable[B]) -> tuple[A, B]:
    """Awaits two things side by side; as `gather`."""
    first, second = asyncio.ensure_future(one), asyncio.ensure_future(other)
    await gather([first, second])
    return first.result(), second.result()


class Threads:
    """Where work that would block the event loop is done."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="prepare")

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs a function in a thread. Where nobody waits any more and it has not begun, never."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, *arguments)

    async def close(self) -> None:
        """Waits for what runs; what has not begun is dropped."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
