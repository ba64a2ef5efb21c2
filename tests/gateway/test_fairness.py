"""One client that takes all it can get: the others are let in, and do not wait behind all of it."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from benchmarks.traffic.connection import Target
from openclip_api.v1 import clip_pb2_grpc
from tests.gateway.keyed import Keys, bearer
from tests.gateway.slow import SlowEncoder, served
from tests.gateway.waiting import until
from tests.items import sample

pytestmark = pytest.mark.slow

GREEDY, OTHER = "127.0.0.2", "127.0.0.3"  # every address of 127.0.0.0/8 is this machine's
TRIES = 15
MAX_BATCH = 32  # rows of one call of the demo model


Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
numbers = count()


def client(
    target: Target, address: str, headers: dict[str, str] | None = None
) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=limits)
    return httpx.AsyncClient(
        base_url=f"http://{target.http}", transport=transport, timeout=60, headers=headers
    )


def embed(items: int) -> Ask:
    """Texts that were never sent before."""

    def ask(api: httpx.AsyncClient) -> Awaitable[httpx.Response]:
        texts = [f"a picture of {next(numbers)} things" for _ in range(items)]
        return api.post("/v1/embeddings", json={"input": texts})

    return ask


one_text = embed(1)


def zero_shot(api: httpx.AsyncClient) -> Awaitable[httpx.Response]:
    body = {
        "image": sample("red-circle.png"),
        "labels": [f"thing {next(numbers)}" for _ in range(2_000)],
        "templates": ["a photo of a {}", "a drawing of a {}"],
    }
    return api.post("/v1/zero-shot", json=body)


@asynccontextmanager
async def repeated(
    connections: int, once: Callable[[], Awaitable[int]]
) -> AsyncIterator[Counter[int]]:
    """Several tasks repeat a request while the block lasts; yields the statuses they got."""
    statuses = Counter[int]()

    async def again() -> None:
        while True:
            status = await once()
            statuses[status] += 1
            if status != httpx.codes.OK:
                await asyncio.sleep(1)  # what `retry-after` says at least

    tasks = [asyncio.create_task(again()) for _ in range(connections)]
    try:
        yield statuses
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


def asking(
    api: httpx.AsyncClient, connections: int, ask: Ask
) -> AbstractAsyncContextManager[Counter[int]]:
    """Several connections repeat a request while the block lasts."""

    async def once() -> int:
        return (await ask(api)).status_code

    return repeated(connections, once)


async def connected(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of the greedy client: costs less than one of httpx."""
    host, port = target.http.split(":")
    return await asyncio.open_connection(host, int(port), local_addr=(GREEDY, 0))


async def tried(api: httpx.AsyncClient, ask: Ask = one_text) -> Counter[int]:
    """The statuses of some requests, one after the other."""
    return Counter([(await ask(api)).status_code for _ in range(TRIES)])


@pytest.mark.parametrize("address", [GREEDY, OTHER])
async def test_one_text_does_not_wait_behind_requests_of_many(address: str) -> None:
    encoder = SlowEncoder(400.0)

    def encoded() -> int:
        return sum(len(call.batch) for call in encoder.calls)

    async with (
        served(encoder, triton_calls=1, text_cache_bytes=0) as target,
        client(target, GREEDY) as greedy,
        client(target, address) as other,
        asking(greedy, 16, embed(32)) as statuses,
    ):
        await until(lambda: sum(statuses.values()) > 16)
        before = []  # rows that were encoded while it waited
        for _ in range(TRIES):
            begun = encoded()
            assert (await embed(1)(other)).status_code == httpx.codes.OK
            before.append(encoded() - begun)
        # The call that is under way, and its own; the queue was 512 long.
        assert sorted(before)[TRIES // 2] <= 3 * MAX_BATCH, before
        assert set(statuses) == {200}


async def test_one_text_does_not_wait_behind_a_request_of_all_that_one_may_hold() -> None:
    encoder = SlowEncoder(400.0)

    def encoded() -> int:
        return sum(len(call.batch) for call in encoder.calls)

    async with (
        served(encoder, triton_calls=1, text_cache_bytes=0) as target,
        client(target, GREEDY) as greedy,
        client(target, OTHER) as other,
        asking(greedy, 1, embed(2_048)),
    ):
        await until(lambda: encoded() > MAX_BATCH)
        for _ in range(TRIES):
            begun = encoded()
            assert (await embed(1)(other)).status_code == httpx.codes.OK
            assert encoded() - begun <= 8 * MAX_BATCH


async def test_a_clients_many_connections_leave_room_for_others() -> None:
    async def once() -> int:
        if not idle:
            idle.append(await connected(target))
            opened.callback(idle[-1][1].close)
        reader, writer = idle.pop()
        body = b'{"input": "a picture of %d things"}' % next(numbers)
        writer.write(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n")
        writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\ncontent-length: (\d+)", head)
        assert length
        await reader.readexactly(int(length[1]))
        idle.append((reader, writer))
        return int(head.split()[1])

    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    async with (
        served(SlowEncoder(200.0), text_cache_bytes=0) as target,
        client(target, OTHER) as other,
        AsyncExitStack() as opened,
        repeated(300, once) as statuses,
    ):
        await until(lambda: statuses[429] > 50)
        assert await tried(other) == {200: TRIES}
        assert statuses[200]
        forwarded = {"x-forwarded-for": "10.1.2.3", "forwarded": "for=10.1.2.3"}
        async with asyncio.timeout(60), client(target, GREEDY, forwarded) as pretending:
            while (refused := await embed(1)(pretending)).status_code == httpx.codes.OK:
                pass  # believed, it would never be refused
        assert "GATEWAY_CLIENT_SHARE" in refused.json()["error"]["message"]


@pytest.mark.parametrize("address", [GREEDY, OTHER])
async def test_two_zero_shot_requests_of_many_labels_leave_room_for_others(address: str) -> None:
    encoder = SlowEncoder(400.0)
    async with (
        served(encoder, triton_calls=1) as target,
        client(target, GREEDY) as greedy,
        client(target, address) as other,
        asking(greedy, 2, zero_shot) as statuses,
    ):
        await until(lambda: len(encoder.calls) > 4)
        assert await tried(other) == {200: TRIES}
        if address != GREEDY:  # of one client, many go one after the other
            assert await tried(other, embed(32)) == {200: TRIES}
        assert not statuses[429]  # both are worked on


@pytest.mark.parametrize("by", ["address", "key"])
async def test_clients_that_send_nothing_leave_room_for_others(by: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n"
    address, headers = OTHER, dict[str, str]()
    if by == "key":
        keys = Keys(tmp_path / "keys.yaml")
        settings["api_keys_file"] = keys.path
        head += f"authorization: {bearer(keys.add('greedy'))['authorization']}\r\n"
        address, headers = GREEDY, bearer(keys.add("other"))
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(served(SlowEncoder(400.0), **settings))
        other = await stack.enter_async_context(client(target, address, headers))
        for _ in range(300):
            _, writer = await connected(target)
            stack.callback(writer.close)
            writer.write(f"{head}\r\n".encode())
        assert await tried(other) == {200: TRIES}


async def test_silent_streams_leave_room_for_others() -> None:
    async with (
        served(SlowEncoder(400.0)) as target,
        client(target, OTHER) as other,
        grpc.aio.insecure_channel(target.grpc) as channel,
    ):
        stub: Any = clip_pb2_grpc.ClipServiceStub(channel)
        streams = [stub.EmbedStream() for _ in range(300)]
        assert await tried(other) == {200: TRIES}
        assert await tried(other, embed(32)) == {200: TRIES}
        for stream in streams:
            stream.cancel()
