"""Under steady load Triton dies and restarts, hangs and continues; nobody gets a wrong vector.

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

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "3"))
BACK_S = 2.0  # from Triton's readiness to the first success
SLACK_S = 5.0  # that a machine full of other tests may take on top

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
    async with steady_load(api, golden_values(api)) as seen:
        for _ in range(ROUNDS):
            await seen.success_after(time.monotonic())
            triton.kill()
            await asyncio.sleep(0.3)
            before = seen.statuses[503]
            await asyncio.to_thread(triton.start)
            ready = time.monotonic()
            assert seen.statuses[503] > before
            assert await seen.success_after(ready) <= BACK_S + SLACK_S
    seen.judge()
    assert seen.statuses[200]
    assert not seen.statuses[504], "a line that broke is known at once"


async def test_triton_is_stopped_and_continued(service: Service) -> None:
    triton, api = service
    async with steady_load(api, golden_values(api)) as seen:
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
            assert await seen.success_after(thawed) <= BACK_S + SLACK_S
    seen.judge()


def refused(seen: Seen, count: int) -> bool:
    return seen.statuses[503] >= count
