"""Waits for what happens elsewhere in its own time."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping

import httpx

from tests.gateway.raw import connect

WITHIN_S = 60.0


def wait_until(
    condition: Callable[[], object],
    otherwise: str = "it did not come about in time",
    within: float = WITHIN_S,
) -> None:
    """Return once it holds; fail with these words where it does not in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


async def until(condition: Callable[[], object], within: float = WITHIN_S) -> None:
    """As `wait_until`, without blocking the event loop."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - no event says when it holds
            await asyncio.sleep(0.01)


def inflight(
    api: httpx.Client, protocol: str = "rest", headers: Mapping[str, str] | None = None
) -> int:
    """How many requests a gateway works on; of REST, without the one that asks this."""
    text = api.get("/metrics", headers=headers).text
    found = re.findall(rf'^openclip_inflight{{protocol="{protocol}"}} (\d+)', text, re.MULTILINE)
    return sum(map(int, found)) - (protocol == "rest")  # none before the first


@contextlib.contextmanager
def unfinished_request(
    api: httpx.Client,
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    watching: Mapping[str, str] | None = None,
) -> Iterator[socket.socket]:
    """The one request that a gateway reads: all of its body but the first byte is due.

    Nothing but the metrics is asked for before it is under way: any other request could take the
    only permit. These are asked for with the headers `watching`, such as another key.
    """
    fields = {"host": "localhost", "content-length": str(len(body)), "connection": "close"}
    lines = [f"{name}: {value}" for name, value in (fields | dict(headers or {})).items()]
    head = "\r\n".join(["POST /v1/embeddings HTTP/1.1", *lines, "", ""])

    def at_work() -> int:
        return inflight(api, headers=watching)

    wait_until(lambda: not at_work(), "an earlier request does not end")
    with connect(api) as connection:
        connection.sendall(head.encode() + body[:1])
        wait_until(at_work, "the request did not arrive")
        yield connection
