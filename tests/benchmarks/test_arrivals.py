import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.traffic.arrivals import due_times, offer
from benchmarks.traffic.connection import LOST, Target
from tests.conftest import GatewayClient

RATE, SECONDS = 200.0, 100.0
SERVICE_S = 0.05  # of the slow server, for each request, one at a time
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def test_arrivals_are_a_poisson_process() -> None:
    due = list(due_times(RATE, SECONDS, seed=1))
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < SECONDS
    count = RATE * SECONDS
    assert abs(len(due) - count) < 4 * count**0.5
    gaps = np.array([later - earlier for earlier, later in pairwise(due)])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of exponential gaps alone
    assert (gaps > 1 / RATE).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_a_seed_repeats_them() -> None:
    first = list(due_times(RATE, 1, seed=1))
    assert list(due_times(RATE, 1, seed=1)) == first
    assert list(due_times(RATE, 1, seed=2)) != first


def test_every_request_is_sent_and_answered(api: GatewayClient) -> None:
    target = Target(api.base_url.netloc.decode(), api.grpc_address, "demo")
    for kind in ("rest-text", "grpc-text"):
        outcome = offer(target, kind, rate=20, seconds=1, seed=3)
        assert len(outcome.accepted) == len(list(due_times(20, 1, seed=3)))
        assert outcome.values(20, 1)["errors"] == 0


def test_two_processes_share_the_load(api: GatewayClient) -> None:
    target = Target(api.base_url.netloc.decode(), api.grpc_address, "demo")
    outcome = offer(target, "rest-text", rate=40, seconds=1, processes=2)
    shares = [len(list(due_times(20, 1, seed))) for seed in (0, 1)]
    assert len(outcome.accepted) == outcome.statuses.total() == sum(shares)


def test_waiting_in_the_queue_is_not_hidden() -> None:
    """At twice what the server carries, the last request waits for half of all before it."""
    with slow_server() as address:
        outcome = offer(Target(address, "", ""), "rest-text", rate=2 / SERVICE_S, seconds=1)
    whole = len(outcome.accepted) * SERVICE_S
    assert max(outcome.accepted) > 0.2 * whole
    assert outcome.elapsed >= 0.9 * whole


def test_failures_are_counted_by_what_went_wrong() -> None:
    outcome = offer(Target("127.0.0.1:1", "", ""), "rest-text", rate=20, seconds=0.5, seed=1)
    values = outcome.values(20, 0.5)
    assert values["errors"] == values["requests"] > 0
    assert set(outcome.others()) == {LOST}
    assert np.isnan(values["p99_ms"])


@contextmanager
def slow_server() -> Iterator[str]:
    """An HTTP server that answers one request at a time."""
    loop = asyncio.new_event_loop()
    turn = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                await reader.readexactly(length)
                async with turn:
                    await asyncio.sleep(SERVICE_S)
                writer.write(ANSWER)
        except (EOFError, OSError):
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def stop(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=5)
