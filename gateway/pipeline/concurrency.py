"""Concurrent work: tasks of the event loop, and threads."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

FEW_VALUES = 2**14  # a few milliseconds

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


async def gather(work: Iterable[Awaitable[T]]) -> list[T]:
    """Await everything side by side; the first failure cancels what has not ended."""
    awaitables = list(work)
    if len(awaitables) == 1:
        return [await awaitables[0]]  # a task of its own would be for nothing
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def comes(event: asyncio.Event, within: float | None) -> bool:
    """Whether the event is set within this number of seconds; None sets no limit.

    Not by `asyncio.wait_for`: in Python 3.11 that loses a cancellation which comes just as what it
    waits for is done, and a task that was cancelled once is then awaited for ever.
    """
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def gather_two(one: Awaitable[A], other: Awaitable[B]) -> tuple[A, B]:
    """Await two awaitables concurrently, as `gather`."""
    first, second = asyncio.ensure_future(one), asyncio.ensure_future(other)
    await gather([first, second])
    return first.result(), second.result()


async def first(one: Awaitable[object], other: Awaitable[object]) -> None:
    """Await two things side by side until the first of them ends; cancel the other."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def in_thread_if_large(function: Callable[..., T], *arguments: object, values: int) -> T:
    """Call a function of this number of values: in a thread if they are many, else directly."""
    if values <= FEW_VALUES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


class Threads:
    """Where work that would block the event loop is done."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="prepare")

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function in a thread; never, if the caller is cancelled before it begins."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, *arguments)

    async def map(self, function: Callable[[A], T], arguments: Iterable[A]) -> list[T]:
        """Run a function for each argument; other requests' work comes in between."""
        done: dict[int, T] = {}
        waiting = enumerate(arguments)

        async def some() -> None:
            for index, argument in waiting:
                done[index] = await self.run(function, argument)

        await gather(some() for _ in range(self._count))
        return [done[index] for index in range(len(done))]

    async def close(self) -> None:
        """Wait for the running functions; drop those that have not begun."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
