"""Bodies that become large, come slowly or do not come at all: the real process stays small."""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import chain

import httpx
import pytest

from server.launcher import TritonServer
from tests.conftest import COMMAND, GatewayClient, GatewayFactory, Outside
from tests.gateway.raw import connect, received
from tests.gateway.underattack import UnderAttack
from tests.items import RED_CIRCLE, b64

MB = 2**20
SIZE = 47 * MB  # within GATEWAY_MAX_BODY_BYTES
AT_ONCE = 6
# Of 2 GiB for two workers, less what they have when idle and for decoding.
MOST = 480 * MB
HEAD = "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n"


@pytest.fixture(scope="module")
def api(triton: TritonServer, start_gateway: GatewayFactory) -> Iterator[GatewayClient]:
    """One of two workers, as far as memory goes; its own, since peaks stay."""
    with start_gateway(Outside(command=COMMAND), triton_address=triton.addresses.grpc) as client:
        client.post("/v1/embeddings/image", content=RED_CIRCLE)
        yield client


def form(part: bytes) -> bytes:
    head = b'--B\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\n'
    return head + part + b"\r\n--B--\r\n"


def spaced() -> bytes:
    return b'{"input": {"image": "' + b"QU FB " * (SIZE // 6) + b'"}}'


def wide() -> bytes:
    return (
        b'{"input": "'
        + "\N{CJK UNIFIED IDEOGRAPH-4E2D}".encode()
        + b"a" * SIZE
        + ("\N{GRINNING FACE}".encode() + b'\\n"}')
    )


def several() -> bytes:
    text = '"' + "a" * 300_000 + '\N{GRINNING FACE}\\n",'
    return b'{"input": [' + text.encode() * (SIZE // 300_100) + b'"a"]}'


def escaped() -> bytes:
    return b'{"input": "' + b"a" * SIZE + b'\\ud83d\\ude00"}'


BODIES = {
    "base64 with spaces": ("/v1/embeddings", spaced, "application/json"),
    "one emoji": ("/v1/embeddings", wide, "application/json"),
    "many emoji": ("/v1/embeddings", several, "application/json"),
    "one escaped emoji": ("/v1/similarity", escaped, "application/json"),
    "a long name": ("/v1/rerank", lambda: b'{"' + wide()[11:-1] + b": 1}", "application/json"),
    "image": ("/v1/embeddings/image", lambda: bytes(SIZE), "image/png"),
    "form": ("/v1/embeddings/image", lambda: form(b"\r\n--" * (SIZE // 4)),
             "multipart/form-data; boundary=B"),
    "field": ("/v1/embeddings/image",
              lambda: form(wide()).replace(b'; filename="a"', b"", 1),
              "multipart/form-data; boundary=B"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_what_bodies_become_is_bounded(api: GatewayClient, name: str) -> None:
    path, make, kind = BODIES[name]
    body, statuses = make(), Counter[int]()
    request = HEAD.replace("/v1/embeddings", path).format(len(body))
    request = request.replace("\r\n\r\n", f"\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n")

    def send() -> None:
        with connect(api) as raw, contextlib.suppress(OSError):
            raw.sendall(request.encode())
            with contextlib.suppress(OSError):
                raw.sendall(body)
            statuses[int(raw.recv(12).split()[1])] += 1

    with UnderAttack(api) as attack:
        senders = [threading.Thread(target=send) for _ in range(AT_ONCE)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    print(name, statuses)
    assert set(statuses) <= {400, 413, 429}
    assert set(statuses) & {400, 413}  # the first one has room at least
    attack.judge(MOST)


def test_an_answer_that_repeats_long_labels(api: GatewayClient) -> None:
    tiny = b64(RED_CIRCLE)
    asked = {"images": [tiny] * 100, "labels": [f"{n}" + "x" * 5_000 for n in range(1_000)]}
    with UnderAttack(api) as attack:
        refused = api.post("/v1/zero-shot", json=asked)
        assert refused.status_code == 413
        assert refused.json()["error"]["param"] == "top_k"
        assert api.post("/v1/zero-shot", json=asked | {"top_k": 5}).status_code == 200
    attack.judge(MOST)


async def test_chunked_bodies_take_what_they_send(api: GatewayClient) -> None:
    async def body(number: int) -> AsyncIterator[bytes]:
        yield b'{"input": "'
        await asyncio.sleep(0.05)
        yield b'%d"}' % number

    async def ask(client: httpx.AsyncClient, number: int) -> list[int]:
        return [
            (await client.post("/v1/embeddings", content=body(number + at))).status_code
            for at in range(6)
        ]

    async with httpx.AsyncClient(base_url=api.base_url, timeout=60) as client:
        found = await asyncio.gather(*(ask(client, 100 * number) for number in range(32)))
    assert Counter(chain.from_iterable(found)) == {200: 192}


def test_those_who_send_nothing_hold_nothing(api: GatewayClient) -> None:
    asked = [(SIZE, b""), (10, b""), (10, b"{"), (SIZE, b"{" * 1_000)]
    with contextlib.ExitStack() as stack, UnderAttack(api) as attack:
        raws = [stack.enter_context(connect(api)) for _ in range(400)]
        for number, raw in enumerate(raws):
            size, sent = asked[number % len(asked)]
            raw.sendall(HEAD.format(size).encode() + sent)
        for number in range(20):
            response = api.post("/v1/embeddings", json={"input": f"others {number}"})
            assert response.status_code == httpx.codes.OK, response.text
        for raw in raws[:4]:
            head, _, body = received(raw).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            error = json.loads(body)["error"]
            assert (error["code"], error["type"]) == ("request_timeout", "timeout_error")
            assert "GATEWAY_MIN_RATE" in error["message"]
    attack.judge(100 * MB)


def test_a_body_that_trickles(api: GatewayClient) -> None:
    began = time.monotonic()
    with connect(api) as raw:
        raw.sendall(HEAD.format(SIZE).encode())
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 60:
                raw.sendall(b" " * 100)
                time.sleep(0.1)
        assert received(raw).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 60
