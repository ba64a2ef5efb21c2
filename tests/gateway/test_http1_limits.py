"""What clients leave unfinished, send ahead or do not read, by raw sockets."""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.rest import metrics_port
from gateway.rest.http1 import HEAD_BYTES, HEADERS
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, Outside, free_ports, run_gateway
from tests.gateway.raw import connect, received
from tests.gateway.underattack import UnderAttack
from tests.gateway.waiting import wait_until

MB = 2**20
START = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
HEAD_S = 2.0  # for the head of a request, where it is waited for
CONNECTIONS = 30


@pytest.fixture(scope="module")
def strict(triton: TritonServer, start_gateway: GatewayFactory) -> Iterator[GatewayClient]:
    """A gateway that waits for heads a short time, and has few connections."""
    limits = {"head_timeout_s": HEAD_S, "max_connections": CONNECTIONS}
    with start_gateway(triton_address=triton.addresses.grpc, **limits) as api:
        yield api


def answer(raw: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and error of the one answer that comes before the other side hangs up."""
    head, _, body = received(raw).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def send_all(raw: socket.socket, block: bytes, count: int) -> None:
    """Send the block `count` times, or until the other side hangs up."""
    with contextlib.suppress(OSError):
        for _ in range(count):
            raw.sendall(block)


LINES = b"".join(b"x-%06d: %s\r\n" % (n, b"y" * 100) for n in range(9_000))  # 1 MB
FLOODS = {
    "lines": (START, LINES, 40),
    "one line": (START + b"a: ", b"x" * MB, 40),
    "one name": (START, b"x" * MB, 40),
    "url": (b"GET /", b"x" * MB, 40),
    "empty lines": (b"", b"\r\n" * (MB // 2), 40),
    "trailers": (START + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", LINES, 40),
    "chunk extension": (START + b"transfer-encoding: chunked\r\n\r\n2;", b"x" * MB, 40),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_head_without_end(api: GatewayClient, name: str) -> None:
    start, block, count = FLOODS[name]
    with UnderAttack(api) as attack, connect(api) as raw:
        raw.sendall(start)
        send_all(raw, block, count)
        status, error = answer(raw)
    assert (status, error["code"]) == (431, "too_large")
    attack.judge(16 * MB)


def test_a_head_within_the_limits(api: GatewayClient) -> None:
    many = {f"x-{number}": "y" * 500 for number in range(HEADERS - 10)}
    assert api.get("/livez", headers=many).status_code == httpx.codes.OK
    assert api.get("/livez", headers={"x": "y" * (HEAD_BYTES - 1_000)}).status_code == 200
    refused = api.get("/livez", headers={f"x-{number}": "y" for number in range(HEADERS + 1)})
    assert refused.status_code == 431
    assert str(HEADERS) in refused.json()["error"]["message"]
    assert api.get("/livez", headers={"x": "y" * (HEAD_BYTES + 4_000)}).status_code == 431


def test_lines_behind_a_body_are_no_headers(api: GatewayClient) -> None:
    framed = (
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n"
    )
    body = b'{"input": "a"}'
    with connect(api) as raw:
        raw.sendall(START + framed % (len(body), body))
        raw.sendall(b"x-request-timeout-ms: 0\r\ncontent-type: multipart/form-data\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 200"


def test_many_requests_sent_ahead(api: GatewayClient) -> None:
    with UnderAttack(api) as attack, contextlib.ExitStack() as stack:
        raws = [stack.enter_context(connect(api)) for _ in range(8)]
        senders = [threading.Thread(target=send_all, args=(raw, LIVE * 8_000, 4)) for raw in raws]
        for sender in senders:
            sender.start()
        time.sleep(2)  # nobody reads, so that each comes to a halt
        for raw in raws:
            raw.shutdown(socket.SHUT_RDWR)
        for sender in senders:
            sender.join()
    attack.judge(24 * MB)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /livez HTT", START + b"a: b\r\n"])
def test_a_head_that_is_late(strict: GatewayClient, sent: bytes) -> None:
    with connect(strict) as raw:
        raw.sendall(sent)
        if sent:
            status, error = answer(raw)
            assert (status, error["code"]) == (408, "request_timeout")
            assert "GATEWAY_HEAD_TIMEOUT_S" in error["message"]
        else:
            assert raw.recv(1) == b""


def test_a_head_that_comes_byte_by_byte_is_late(strict: GatewayClient) -> None:
    began = time.monotonic()
    with connect(strict) as raw:
        assert send_until(raw, LIVE[:-4] + b"x" * 10_000)
        assert answer(raw)[0] == 408
    assert time.monotonic() - began < 10 * HEAD_S


def send_until(raw: socket.socket, data: bytes) -> bool:
    """Send a byte at a time until there is an answer."""
    raw.settimeout(0.05)
    for number in range(len(data)):
        raw.sendall(data[number : number + 1])
        with contextlib.suppress(TimeoutError):
            if raw.recv(1, socket.MSG_PEEK):
                return True
    return False


def test_the_rest_of_a_refused_body_is_late(strict: GatewayClient) -> None:
    with connect(strict) as raw:
        raw.sendall(b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n1")
        assert raw.recv(12) == b"HTTP/1.1 404"
        received(raw)


def test_those_who_say_nothing_make_room(strict: GatewayClient) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(3 * CONNECTIONS):
            raw = stack.enter_context(connect(strict))
            raw.sendall(START[: number % 9])
            if number % 10 == 0:  # each on a connection of its own
                url = f"{strict.base_url}/v1/embeddings"
                assert httpx.post(url, json={"input": "a"}).status_code == httpx.codes.OK


def test_an_answer_that_nobody_reads(api: GatewayClient) -> None:
    ask = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack, UnderAttack(api) as attack:
        for _ in range(4):
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            raw.connect((api.base_url.host, api.base_url.port or 80))
            stack.callback(raw.close)
            raw.sendall(ask * 100)
        wait_until(lambda: not open_connections(raw), "it is not hung up on")
    attack.judge(24 * MB)


def open_connections(raw: socket.socket) -> bool:
    """Whether the other side holds this connection still."""
    port = raw.getsockname()[1]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


def test_more_connections_than_the_usual_limit_of_open_files(triton: TritonServer) -> None:
    command = ("sh", "-c", f"ulimit -Sn 256; ulimit -Hn 2048; exec {sys.executable} -m gateway")
    with (
        run_gateway(Outside(command=command), triton_address=triton.addresses.grpc) as api,
        contextlib.ExitStack() as opened,
    ):
        for _ in range(400):
            opened.enter_context(connect(api)).sendall(START)
        assert api.post("/v1/embeddings", json={"input": "a"}, timeout=20).is_success


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_gateway_on_every_address_has_its_metrics_there(triton: TritonServer) -> None:
    (port,) = free_ports(1)
    with run_gateway(triton_address=triton.addresses.grpc, host="::", metrics_port=port):
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/metrics", timeout=20).is_success


def test_the_port_of_metrics_has_few_connections(triton: TritonServer) -> None:
    (port,) = free_ports(1)
    with (
        run_gateway(triton_address=triton.addresses.grpc, metrics_port=port),
        contextlib.ExitStack() as opened,
    ):
        slow = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(100)
        ]
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).is_success
        for raw in slow[: -metrics_port.LIMITS.connections]:
            with contextlib.suppress(ConnectionResetError):
                assert raw.recv(1) == b""
        # Those that ask on and on get one answer each, and hold nobody else up.
        for raw in slow[-metrics_port.LIMITS.connections + 1 :]:
            raw.sendall(100 * b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).is_success
        assert received(slow[-1]).count(b"HTTP/1.1 200") == 1
