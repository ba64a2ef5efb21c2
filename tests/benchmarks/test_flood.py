"""A flood tells accepted from refused, and both from all else; its connections lose nothing."""

import asyncio
import contextlib
import itertools
import os
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.overload import checks, measure
from benchmarks.reporting.results import Row
from benchmarks.systems import services
from benchmarks.traffic import loops
from benchmarks.traffic.arrivals import flood
from benchmarks.traffic.connection import LOST, HttpConnection, Target
from benchmarks.traffic.requests import Request
from tests.gateway.waiting import until

POST = Request("rest", "/x", b"abc")
Behave = Callable[[int], bytes | None]  # of the number of the request; None: closes


def answer(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@asynccontextmanager
async def serving(
    behave: Behave, came: list[str] | None = None, *, then_close: bool = False
) -> AsyncIterator[Target]:
    """A server that sends the given answer in parts; it calls `came` for each connection."""
    numbers, handling = itertools.count(), set[asyncio.Task[None]]()

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST /x HTTP/1.1\r\n"):
            assert await reader.readexactly(3) == b"abc"
            said = behave(next(numbers))
            if said is None:
                return
            for part in (said[:20], said[20:]):
                writer.write(part)
                await asyncio.sleep(0.001)
            if then_close:
                return

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.add(task)
        if came is not None:
            came.append("")
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client has closed it
            await answers(reader, writer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Target(f"127.0.0.1:{port}", "127.0.0.1:1", "demo")
        await asyncio.gather(*handling)


async def test_every_status_is_counted_for_itself() -> None:
    said = [answer(200, b"{}" * 500), answer(429), answer(429), answer(504), None]
    async with serving(lambda number: said[number % 5]) as target:
        flooded = await flood(target, [POST], 500.0, 0.5)
    total = flooded.statuses.total()
    assert total > 100
    assert flooded.statuses["429"] == len(flooded.refused)
    assert flooded.statuses["200"] == len(flooded.accepted)
    assert set(flooded.others()) == {"504", LOST}
    assert sum(flooded.others().values()) + len(flooded.refused + flooded.accepted) == total
    assert flooded.unsent == 0
    assert 0 < flooded.client_seconds < flooded.elapsed


async def test_connections_that_the_server_closes_when_idle_are_not_used_again() -> None:
    came: list[str] = []
    async with serving(lambda number: answer(200, b"{}"), came, then_close=True) as target:
        http = HttpConnection(target.http)
        for _ in range(5):
            assert await http.send(POST) == b"{}"
            await until(lambda: http._streams and http._streams[0].at_eof())
        await http.close()
    assert len(came) == 5


async def test_connections_are_kept() -> None:
    came: list[str] = []
    async with serving(lambda number: answer(200, b"{}"), came) as target:
        http = HttpConnection(target.http)
        for _ in range(5):
            assert await http.send(POST) == b"{}"
        await http.close()
    assert len(came) == 1


async def test_nobody_listens() -> None:
    flooded = await flood(Target("127.0.0.1:1", "127.0.0.1:1", "demo"), [POST], 100.0, 0.1)
    assert set(flooded.statuses) <= {LOST}
    grpc = Request("grpc", "/openclip.v1.ClipService/Embed", b"")
    flooded = await flood(Target("127.0.0.1:1", "127.0.0.1:1", "demo"), [grpc], 100.0, 0.1)
    assert set(flooded.others()) == {"UNAVAILABLE"}


def test_the_loops_before_and_after_a_flood_send_different_captions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []

    def loop(_: Target, stream: Iterator[Request], *__: object) -> loops.Measurement:
        sent.append(next(stream).body)
        return loops.Measurement(10.0, [0.1], Counter())

    @contextlib.contextmanager
    def serving(*_: object) -> Iterator[services.Gateway]:
        yield services.Gateway(os.getpid(), Target("127.0.0.1:1", "127.0.0.1:1", "demo"))

    monkeypatch.setattr(loops, "measure", loop)
    monkeypatch.setattr(services, "serving", serving)
    given = Namespace(repository=Path(), env={}, kind="rest-text", times=2.5, seconds=0.1)
    [row] = measure(given, {"id": "demo"})
    assert row.labels == {"kind": "rest-text", "times": "2.5"}
    assert len(set(sent)) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accepted_per_second", 80.0),
        ("accepted_p99_ms", 20_000.0),
        ("refused_median_ms", 60.0),
        ("other", 1.0),
        ("grown_megabytes", 200.0),
        ("after_per_second", 80.0),
    ],
)
def test_every_promise_is_checked(name: str, value: float) -> None:
    good = {
        "best_per_second": 100.0,
        "accepted_per_second": 95.0,
        "accepted_p99_ms": 6_000.0,
        "refused_median_ms": 1.0,
        "other": 0.0,
        "grown_megabytes": 5.0,
        "after_per_second": 99.0,
    }
    assert all(each.passed for each in checks([Row({}, good)]))
    missed = checks([Row({}, good | {name: value})])
    assert [each.passed for each in missed].count(False) == 1
