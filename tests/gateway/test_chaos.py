"""Under steady load Triton dies and comes back, hangs and goes on; nobody gets a wrong vector.

`CHAOS_ROUNDS` sets how many times each.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.steady import Seen, golden_values, steady_load
from tests.gateway.tritons import SteeredTriton, steered
from tests.gateway.waiting import until

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "3"))
BACK_S = 2.0  # from Triton's readiness to the first success
ALWAYS_S = 10.0  # what a machine full of other tests may make of it, but not each time

Service = tuple[SteeredTriton, httpx.Client]


@pytest.fixture
def service(start_gateway: GatewayFactory) -> Iterator[Service]:
    """Without a cache, so that every answer comes from Triton."""
    with (
        steered() as triton,
        start_gateway(triton_address=triton.address, text_cache_bytes=0) as api,
    ):
        yield triton, api


async def test_triton_is_killed_and_restarted(service: Service) -> None:
    triton, api = service
    took: list[float] = []
    # Far from their deadlines, which no request may have to wait for.
    async with steady_load(api, golden_values(api), timeout_s=20) as seen:
        for _ in range(ROUNDS):
            await seen.success_after(time.monotonic())
            triton.kill()
            await asyncio.sleep(0.3)
            before = seen.statuses[503]
            await asyncio.to_thread(triton.start)
            ready = time.monotonic()
            assert seen.statuses[503] > before
            took.append(await seen.success_after(ready))
    assert_back(took)
    seen.judge()
    assert seen.statuses[200]
    assert not seen.statuses[504], "a line that broke is known at once"


async def test_triton_is_stopped_and_continued(service: Service) -> None:
    triton, api = service
    took: list[float] = []
    async with steady_load(api, golden_values(api), timeout_s=2) as seen:
        for number in range(ROUNDS):
            await seen.success_after(time.monotonic())
            triton.freeze()
            # First a pause that passes unnoticed, then those that open the breaker.
            await asyncio.sleep(0.5)
            if number:
                before = seen.statuses[503]
                await until(partial(refused, seen, before + 10))
                assert seen.statuses[504]  # of those that were under way
            triton.thaw()
            thawed = time.monotonic()
            back = await seen.success_after(thawed)
            took += [back] if number else []
    assert_back(took)
    seen.judge()


def refused(seen: Seen, count: int) -> bool:
    return seen.statuses[503] >= count


def assert_back(took: list[float]) -> None:
    """A stall of the machine lengthens a round; what the gateway itself does, every one."""
    assert min(took) <= BACK_S, took
    assert max(took) <= ALWAYS_S, took
