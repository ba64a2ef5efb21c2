"""Work in threads: in its order, shared with others, and dropped when nobody waits any more."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from gateway.pipeline.concurrency import FEW_VALUES, Threads, comes, in_thread_if_large


@pytest.fixture
async def thread() -> AsyncIterator[Threads]:
    """One thread."""
    threads = Threads(1)
    yield threads
    await threads.close()


async def test_others_come_in_between(thread: Threads) -> None:
    begun, done = threading.Event(), list[str]()

    def work(name: str) -> str:
        begun.wait()
        done.append(name)
        return name.upper()

    several = asyncio.create_task(thread.map(work, iter("abc")))
    await asyncio.sleep(0)
    other = asyncio.create_task(thread.run(work, "x"))
    await asyncio.sleep(0)
    begun.set()
    assert await several == ["A", "B", "C"]
    assert await other == "X"
    assert done == ["a", "x", "b", "c"]


async def test_what_nobody_waits_for_is_not_begun(thread: Threads) -> None:
    begun, done = threading.Event(), list[str]()

    def work(name: str) -> None:
        begun.wait()
        done.append(name)

    task = asyncio.create_task(thread.map(work, "abc"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begun.set()
    await thread.run(lambda: None)
    assert done == ["a"]


async def test_a_failure_ends_the_rest(thread: Threads) -> None:
    done: list[int] = []

    def work(number: int) -> float:
        done.append(number)
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        await thread.map(work, [1, 0, 2])
    assert done == [1, 0]
    assert await thread.map(work, []) == []


@pytest.mark.parametrize(("values", "here"), [(FEW_VALUES, True), (FEW_VALUES + 1, False)])
async def test_much_is_gone_through_in_a_thread(values: int, here: bool) -> None:
    thread = await in_thread_if_large(threading.get_ident, values=values)
    assert (thread == threading.get_ident()) == here


async def test_a_cancellation_as_an_event_comes_is_not_lost() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(comes(event, 60))
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_event_comes_or_does_not() -> None:
    event = asyncio.Event()
    assert not await comes(event, 0.001)
    asyncio.get_running_loop().call_later(0.001, event.set)
    assert await comes(event, None)
    assert await comes(event, 60)
