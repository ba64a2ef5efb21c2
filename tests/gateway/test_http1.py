"""What clients send below HTTP's surface, by raw sockets."""

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.rest.connections import ConnectionLimits, Connections
from gateway.rest.http1 import HEADERS, Http1
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, Outside
from tests.gateway.raw import connect

BODY = b'{"input": "a red circle"}'
UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"transfer-encoding: chunked\r\n\r\n5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    BODY[:5], len(BODY) - 5, BODY[5:],
)  # fmt: skip
LAST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def post(framed: bytes) -> bytes:
    """A request for an embedding that would like to be HTTP/2."""
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return head + UPGRADE + framed


@pytest.fixture
def connection(api: GatewayClient) -> Iterator[socket.socket]:
    with connect(api) as raw:
        yield raw


def answers(raw: socket.socket, parts: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Status and body of each answer to these bytes, until the other side hangs up."""
    for part in parts:
        raw.sendall(part)
    stream, found = raw.makefile("rb"), []
    while line := stream.readline():
        length = 0
        while (header := stream.readline()) != b"\r\n":
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        found.append((int(line.split()[1]), stream.read(length)))
    return found


@pytest.mark.parametrize("framed", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("cut", [0, 30, -20], ids=["whole", "in its head", "in its body"])
def test_a_wish_for_http2_is_passed_over(
    connection: socket.socket, framed: bytes, cut: int
) -> None:
    request = post(framed)
    parts = [request[:cut], request[cut:] + LAST] if cut else [request + LAST]
    (status, body), (live, _) = answers(connection, parts)
    assert (status, live) == (200, 200)
    assert json.loads(body)["usage"]["prompt_tokens"] == 5


def test_the_body_may_come_later(connection: socket.socket) -> None:
    head, body = post(LENGTH).split(b"\r\n\r\n")
    connection.sendall(head + b"\r\nexpect: 100-continue\r\n\r\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    assert [status for status, _ in answers(connection, [body, LAST])] == [200, 200]


def test_many_at_once(connection: socket.socket) -> None:
    live = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n" + UPGRADE + b"\r\n"
    found = answers(connection, [live * 2_000 + LAST])
    assert [status for status, _ in found] == [200] * 2_001


def test_websockets_are_not_spoken(connection: socket.socket) -> None:
    head = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
    wish = head + b"connection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    assert [status for status, _ in answers(connection, [wish, LAST])] == [200, 200]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        post(b"transfer-encoding: chunked\r\n\r\nno number\r\n"),
    ],
    ids=["binary", "CONNECT", "HTTP/2", "two lengths", "bad chunk"],
)
def test_what_is_no_http(connection: socket.socket, sent: bytes) -> None:
    *_, (status, body) = answers(connection, [sent])
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (400, "invalid_request", None)


def test_a_request_that_turns_out_wrong_gets_one_answer(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    log, bad = tmp_path / "log", b"transfer-encoding: chunked\r\n\r\nno number\r\n"
    head = b"%b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with start_gateway(Outside(log=log), triton_address=triton.addresses.grpc) as api:
        for target in (b"GET /nowhere", b"DELETE /v1/models", b"POST /v1/embeddings"):
            for more in (b"", b"expect: 100-continue\r\n"):
                with connect(api) as raw:
                    found = answers(raw, [head % target + more + bad])
                assert [status for status, _ in found] == [400]
        wrong_twice = head % b"GET /livez" + b"a: b\r\n" * (HEADERS + 1) + b"\0: no HTTP\r\n"
        with socket.create_connection((api.base_url.host, api.base_url.port), 30) as raw:
            assert [status for status, _ in answers(raw, [wrong_twice])] == [400]
        assert api.get("/livez").status_code == 200
    assert "Traceback" not in log.read_text()


def test_a_client_that_leaves_ends_the_answer_before_a_request_that_was_sent_ahead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends: list[str] = []

    async def serve() -> None:
        left, over = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            while (message := await receive())["type"] == "http.request":
                if not message["more_body"]:
                    await left.wait()
            ends.append(message["type"])
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
            over.set()

        class Leaving(Http1):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                left.set()

        connections = Connections(ConnectionLimits(10, 10.0, 1.0, 2**20))
        config = Config(app, lifespan="off")
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Leaving(connections, config=config, server_state=ServerState(), app_state={}),
            "127.0.0.1",
        )
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            head = b"POST /first HTTP/1.1\r\nhost: localhost\r\n"
            writer.write(head + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + LAST)
            await writer.drain()
            writer.close()
            async with asyncio.timeout(10):
                await over.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    assert ends == ["http.disconnect"]
    assert not caplog.records
