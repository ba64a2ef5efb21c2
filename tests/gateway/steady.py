"""A steady load on a gateway, each answer held against its golden value."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
import numpy as np

from tests.gateway.waiting import until
from tests.items import RED_CIRCLE

TIMEOUT_S = 2.0  # that the requests ask for
GRACE_S = 3.0  # for a busy machine to notice that a deadline is over
SENDERS = 4


@dataclass
class Seen:
    """What was answered so far."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # must stay empty
    successes: list[float] = field(default_factory=list)  # when, by time.monotonic

    def judge(self) -> None:
        """Fails where a promise was broken."""
        assert not self.wrong, self.wrong[:5]
        assert set(self.statuses) <= {200, 429, 503, 504}, self.statuses

    async def success_after(self, moment: float) -> float:
        """Seconds from a moment to the first success after it."""
        await until(lambda: any(each >= moment for each in self.successes[-1:]))
        return next(each for each in self.successes if each >= moment) - moment


@asynccontextmanager
async def steady_load(api: httpx.Client, golden: dict[str, np.ndarray]) -> AsyncIterator[Seen]:
    """Send texts and an image, one after the other from each sender, while the block lasts."""
    seen, numbers = Seen(), count()
    async with httpx.AsyncClient(
        base_url=api.base_url,
        headers={"x-request-timeout-ms": str(round(TIMEOUT_S * 1000))},
        timeout=TIMEOUT_S + GRACE_S,
    ) as client:
        senders = [
            asyncio.create_task(_send(client, seen, golden, numbers)) for _ in range(SENDERS)
        ]
        try:
            yield seen
        finally:
            for sender in senders:
                sender.cancel()
            for outcome in await asyncio.gather(*senders, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), outcome


async def _send(
    client: httpx.AsyncClient, seen: Seen, golden: dict[str, np.ndarray], numbers: Any
) -> None:
    texts = [name for name in golden if name != "image"]
    for number in numbers:
        if number % 2:
            name = texts[number // 2 % len(texts)]
            asked: dict[str, Any] = {"json": {"input": name}, "url": "/v1/embeddings"}
        else:
            name, asked = "image", {"content": RED_CIRCLE, "url": "/v1/embeddings/image"}
        try:
            response = await client.post(**asked)
        except httpx.TimeoutException:
            seen.wrong.append(f"{name}: no answer within {TIMEOUT_S + GRACE_S:g} s")
            continue
        except httpx.HTTPError as error:
            seen.wrong.append(f"{name}: {error!r}")
            continue
        seen.statuses[response.status_code] += 1
        if response.status_code == httpx.codes.OK:
            seen.successes.append(time.monotonic())
            vector = np.array(response.json()["data"][0]["embedding"])
            if vector @ golden[name] < 0.9999:
                seen.wrong.append(f"{name}: cosine {vector @ golden[name]:.4f}")
        elif response.status_code in {429, 503} and "retry-after" not in response.headers:
            seen.wrong.append(f"{name}: {response.status_code} without retry-after")
        await asyncio.sleep(0.01)


def golden_values(api: httpx.Client) -> dict[str, np.ndarray]:
    """The right vectors of what the load sends, asked for while all is well."""
    texts = [f"a picture of {number} things" for number in range(20)]
    data = api.post("/v1/embeddings", json={"input": texts}).json()["data"]
    values = {text: np.array(each["embedding"]) for text, each in zip(texts, data, strict=True)}
    [image] = api.post("/v1/embeddings/image", content=RED_CIRCLE).json()["data"]
    return values | {"image": np.array(image["embedding"])}
