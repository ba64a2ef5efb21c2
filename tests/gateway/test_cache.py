"""The cache: what is made once, what is given up, and how much is kept."""

import asyncio

import numpy as np
import pytest

from gateway.pipeline.cache import Encoded, VectorCache


def row(value: float) -> Encoded:
    return Encoded(np.full(4, value, dtype=np.float32), 1, False)


class Maker:
    """Makes rows and remembers for which keys."""

    def __init__(
        self, keys: list[str], gate: asyncio.Event | None = None, fails: bool = False
    ) -> None:
        self.keys = keys
        self.gate = gate  # waited for
        self.fails = fails
        self.made: list[str] = []

    async def __call__(self, positions: list[int]) -> list[Encoded]:
        self.made += [self.keys[position] for position in positions]
        await asyncio.sleep(0)
        if self.gate:
            await self.gate.wait()
        if self.fails:
            raise RuntimeError("staged")
        return [row(ord(self.keys[position])) for position in positions]

    async def ask(self, cache: VectorCache) -> list[float]:
        return [float(each.vector[0]) for each in await cache.rows(self.keys, self)]


async def settled() -> None:
    """Let every task come as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_each_key_is_made_once_and_order_is_kept() -> None:
    seen: list[tuple[int, int]] = []
    cache = VectorCache(10_000, lambda hits, misses: seen.append((hits, misses)))
    first = Maker(["a", "b", "a"])
    assert await first.ask(cache) == [97, 98, 97]
    assert first.made == ["a", "b"]
    second = Maker(["c", "b"])
    assert await second.ask(cache) == [99, 98]
    assert second.made == ["c"]
    assert seen == [(0, 2), (1, 1)]


async def test_what_is_being_made_is_waited_for() -> None:
    cache = VectorCache(0)  # nothing is kept, and yet it is shared
    makers = [Maker(["a", "b"]), Maker(["b", "c"]), Maker(["c", "a"])]
    answers = await asyncio.gather(*(maker.ask(cache) for maker in makers))
    assert answers == [[97, 98], [98, 99], [99, 97]]
    assert sorted(key for maker in makers for key in maker.made) == ["a", "b", "c"]
    again = Maker(["a"])
    await again.ask(cache)
    assert again.made == ["a"]


@pytest.mark.parametrize("cancelled", [True, False])
async def test_others_go_on_where_the_first_fails(cancelled: bool) -> None:
    cache = VectorCache(10_000)
    gate = asyncio.Event()
    leader = Maker(["a"], gate, fails=not cancelled)
    follower = Maker(["a"])
    leading = asyncio.create_task(leader.ask(cache))
    await settled()
    following = asyncio.create_task(follower.ask(cache))
    await settled()
    assert (leader.made, follower.made) == (["a"], [])
    if cancelled:
        leading.cancel()
    gate.set()
    [lead, follow] = await asyncio.gather(leading, following, return_exceptions=True)
    assert isinstance(lead, asyncio.CancelledError if cancelled else RuntimeError)
    assert follow == [97]
    assert follower.made == ["a"]


async def test_what_two_make_one_after_the_other_takes_its_room_once() -> None:
    cache, fails, lasts = VectorCache(2 * (16 + 600)), asyncio.Event(), asyncio.Event()
    failing = asyncio.create_task(Maker(["a"], fails, fails=True).ask(cache))
    lasting = asyncio.create_task(Maker(["b"], lasts).ask(cache))
    await settled()
    of_both, of_one = Maker(["a", "b"]), Maker(["a"])
    waiting = asyncio.create_task(of_both.ask(cache))
    following = asyncio.create_task(of_one.ask(cache))
    await settled()
    fails.set()
    assert await following == [97]
    lasts.set()
    assert await waiting == [97, 98]
    assert of_both.made == of_one.made == ["a"]
    await asyncio.gather(failing, lasting, return_exceptions=True)
    again = Maker(["a", "b"])
    await again.ask(cache)
    assert again.made == []  # there is room for both


async def test_a_follower_that_leaves_takes_nothing_from_the_others() -> None:
    cache = VectorCache(10_000)
    gate = asyncio.Event()
    leader, follower = Maker(["a"], gate), Maker(["a"])
    leading = asyncio.create_task(leader.ask(cache))
    await settled()
    following = asyncio.create_task(follower.ask(cache))
    await settled()
    following.cancel()
    gate.set()
    assert await leading == [97]
    assert follower.made == []


async def test_what_is_made_while_all_is_forgotten_is_for_those_who_wait_alone() -> None:
    cache, gate = VectorCache(10_000), asyncio.Event()
    early = Maker(["a"], gate)
    waiting = asyncio.create_task(early.ask(cache))
    await settled()
    cache.clear()
    late, gate_of_late = Maker(["a"]), asyncio.Event()
    late.gate = gate_of_late
    after = asyncio.create_task(late.ask(cache))
    await settled()
    assert late.made == ["a"]  # and not waited for, as it may be wrong
    gate.set()
    assert await waiting == [97]
    follower = asyncio.create_task(Maker(["a"], fails=True).ask(cache))
    gate_of_late.set()
    assert await after == await follower == [97]
    again = Maker(["a"])
    await again.ask(cache)
    assert again.made == []


async def test_the_least_recently_used_is_dropped() -> None:
    cache = VectorCache(2 * (16 + 600))
    await Maker(["a", "b"]).ask(cache)
    await Maker(["a"]).ask(cache)
    await Maker(["c"]).ask(cache)  # drops b
    asked = Maker(["a", "b", "c"])
    await asked.ask(cache)
    assert asked.made == ["b"]
