"""Hostile images and texts against a real gateway: never a 5xx, never slow, never much memory."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.systems.processes import tree_cpu_seconds
from server.launcher import TritonServer
from tests.conftest import COMMAND, GatewayClient, Outside, run_gateway
from tests.gateway.hostile import accepted_seeds, hazards, mutations, seeds
from tests.gateway.proc import Memory
from tests.items import b64, encoded

pytestmark = pytest.mark.slow

MUTATIONS = 2_000
SLOW_S = 2.0  # of the gateway's CPU time
MIB = 2**20
MOST = 300 * MIB


EXPECTED = {
    "59,424 x 3 JPEG": 413,
    "3 x 59,424 PNG": 413,
    "30,000 x 30,000 1-bit PNG": 413,
    "GIF with 10,000 frames": 200,
    "40 MB of zlib zeros": 400,
    "PNG with 40 MB of pixels too many": 200,
    "PNG with 40 MB in a text": 400,
    "PNG with 40 MB in a profile": 400,
    "ICC garbage": 200,
    "EXIF garbage": 200,
    "XMP garbage": 200,
    "SVG": 400,
    "PDF": 400,
    "EPS": 400,
    "no width": 400,
    "9 bytes that say 20,000 x 2,000": 400,
    "a flood of empty blocks": 400,
    "unfinished zlib": 400,
    "nothing": 400,
    "JPEG of 2,000,000 empty segments": 400,
    "JPEG of 4,000,000 resolutions": 400,
    "GIF of 4,000,000 comments": 400,
    "PNG of 1,000,000 empty chunks": 400,
    "JPEG 2000 of 65,025 tiles": 413,
    "JPEG 2000 of 1,000,000 precincts": 413,
    "JPEG 2000 of 1,000,000 styles": 400,
    "run-length BMP of 7,000 x 7,000 pixels in 28 kB": 413,
    "plain PPM of 3,000 x 3,000 pixels": 413,
    "plain PPM of 5,000,000 comments": 400,
    "TIFF of 4,000,000 strips": 400,
    "TIFF of 4,000,000 resolutions": 400,
    "TIFF of 64 x 64 pixels in a tile of 30,000 x 30,000": 413,
    "AVIF of 2,000,000 orientations": 400,
    "AVIF of 64 x 64 pixels in a frame of 16,000 x 8,000": 413,
    "AVIF of 2,500,000 samples": 400,
    "AVIF of 50,000 places of items": 400,
    "AVIF of 50,000 properties of items": 400,
    "AVIF of 50,000 references of items": 400,
    "JPEG of 1,000 scans": 400,
    "JPEG of 2,700,000 Photoshop resources": 400,
    "PNG of 60 MB of texts in 60 kB": 400,
    "JPEG 2000 of 1,000,000 boxes": 400,
    "JPEG 2000 of 100 palettes of 65,535 colours of no band": 400,
    "JPEG 2000 of 1,000,000 places for packets": 413,
    "JPEG 2000 of 65,535 layers in 100 tiles": 413,
    "WebP of 3,000,000 chunks": 400,
    "TIFF of 1,000,000 exposure times": 400,
    "TIFF of 1,200 strips over each other": 400,
    "TIFF of 2,000 strips that share a megabyte": 413,
    "TIFF of 200 tiles of 16 x 1,000,000 pixels": 413,
}


@pytest.fixture(scope="module")
def client(triton: TritonServer) -> Iterator[GatewayClient]:
    with run_gateway(Outside(command=COMMAND), triton_address=triton.addresses.grpc) as client:
        warm(client)
        yield client


@pytest.fixture
def memory(client: GatewayClient) -> Iterator[Memory]:
    """Of the gateway, from when it had done a little of everything."""
    with Memory(client.process) as memory:
        yield memory
    assert memory.risen < MOST, f"{memory.risen / MIB:.0f} MiB above {memory.idle / MIB:.0f}"
    assert good(client), "it serves no more"


def warm(client: GatewayClient) -> None:
    for seed in seeds():
        send(client, seed)
    client.post("/v1/embeddings", json={"input": ["a", {"image": b64(picture())}]})


def picture() -> bytes:
    return encoded(Image.new("RGB", (80, 60), "blue"), "PNG")


def good(client: GatewayClient) -> bool:
    return send(client, picture()).status_code == 200


def send(client: GatewayClient, data: bytes) -> httpx.Response:
    """One image as the body; answered soon, and with no fault of ours."""
    return soon(client, lambda: client.post("/v1/embeddings/image", content=data), {200, 400, 413})


def soon(
    client: GatewayClient, ask: Callable[[], httpx.Response], allowed: set[int]
) -> httpx.Response:
    """The answer, which may not take the gateway long."""
    before = tree_cpu_seconds(client.process)
    response = ask()
    took = tree_cpu_seconds(client.process) - before
    assert response.status_code in allowed, response.text
    assert took < SLOW_S, f"{took:.1f} CPU-s: {response.text[:300]}"
    return response


def test_mutated_images_one_by_one(client: GatewayClient, memory: Memory) -> None:
    with ThreadPoolExecutor(4) as threads:
        responses = list(
            threads.map(lambda data: send(client, data), mutations(MUTATIONS // 2, seed=1))
        )
    statuses = [response.status_code for response in responses]
    assert statuses.count(200) > MUTATIONS // 20, "the mutations are too coarse to tell anything"
    assert statuses.count(400) > MUTATIONS // 20
    for response in responses:
        if response.status_code != 200:
            error = response.json()["error"]
            assert error["param"] == "body", error
            assert error["code"] in {"invalid_image", "too_large", "invalid_request"}


def test_mutated_images_in_batches(client: GatewayClient, memory: Memory) -> None:
    images = list(mutations(MUTATIONS // 2, seed=2))
    for start in range(0, len(images), 10):
        batch = images[start : start + 10]
        body = {
            "input": [{"image": b64(data)} for data in [*batch, picture()]],
            "on_error": "skip",
        }
        response = soon(client, partial(client.post, "/v1/embeddings", json=body), {200})
        items = response.json()["data"]
        assert [item["index"] for item in items] == list(range(len(batch) + 1))
        assert items[-1]["object"] == "embedding"
        for item in items:
            if item["object"] == "error":
                assert item["error"]["param"] == f"input[{item['index']}]", item


def test_only_formats_of_the_list_are_read(client: GatewayClient) -> None:
    statuses = [send(client, seed).status_code for seed in seeds()]
    assert statuses.count(200) == accepted_seeds()
    assert set(statuses) == {200, 400}


@pytest.mark.parametrize("name", EXPECTED)
def test_hazards(client: GatewayClient, memory: Memory, name: str) -> None:
    data = hazards()[name]
    assert send(client, data).status_code == EXPECTED[name]
    body = {"input": [{"image": b64(data)}, "a text"], "on_error": "skip"}
    response = soon(client, lambda: client.post("/v1/embeddings", json=body), {200})
    assert response.json()["data"][1]["object"] == "embedding"


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"input": ' + b'{"text": ' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        json.dumps({"input": "a" * 1_000_000}).encode(),
        json.dumps({"input": "\u0301" * 30_000}).encode(),
        json.dumps({"input": ["&" * 32_000 + "amp;"]}).encode(),
        b'{"input": "a", "dimensions": NaN}',
        b'{"input": "a", "dimensions": 1e400}',
        b'{"input": "a", "dimensions": ' + b"9" * 100_000 + b"}",
        b'{"input": "a", "dimensions": -1}',
        b'{"input": Infinity}',
        b'{"input": "&#' + b"1" * 5_000 + b';"}',
        b'{"input": "\\ud800"}',
        b"\xff\xfe\x00",
        b'{"input": {"image": "' + b"A" * 1_000_000 + b'"}}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_hostile_json(client: GatewayClient, memory: Memory, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    ask = partial(client.post, "/v1/embeddings", content=body, headers=headers)
    response = soon(client, ask, {200, 400, 413})
    error: dict[str, Any] = response.json()
    assert "error" in error or error["object"] == "list"


def test_pictures_as_large_as_may_be_share_their_memory(
    client: GatewayClient, memory: Memory
) -> None:
    large = encoded(Image.new("RGB", (8_000, 6_000)), "JPEG")
    with ThreadPoolExecutor(6) as threads:
        statuses = list(
            threads.map(
                lambda _: client.post("/v1/embeddings/image", content=large).status_code, range(6)
            )
        )
    assert statuses == [200] * 6
    heavier = encoded(Image.new("RGB", (8_000, 6_000)), "WEBP", method=0)
    response = client.post("/v1/embeddings/image", content=heavier)
    assert response.status_code == 413
    assert "GATEWAY_MAX_DECODE_BYTES" in response.json()["error"]["message"]
