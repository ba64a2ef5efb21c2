"""Images by URL through a real gateway, over both protocols."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, Outside
from tests.gateway.keyed import trailing
from tests.gateway.waiting import wait_until
from tests.httpserver import Handler, web_server
from tests.items import RED_CIRCLE, data_url

DATA_URL = data_url(RED_CIRCLE)


class _Pictures(Handler):
    def do_GET(self) -> None:
        moves = {"/moved.png": "/red-circle.png", "/inside.png": "http://169.254.169.254/"}
        bodies = {"/red-circle.png": RED_CIRCLE, "/text.png": b"no picture"}
        if self.path in moves:
            self.answer(b"", 302, location=moves[self.path])
        elif self.path in bodies:
            self.answer(bodies[self.path])
        else:
            self.answer(b"", 404)


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """The address of a web server on this machine."""
    with web_server(_Pictures) as port:
        yield f"http://127.0.0.1:{port}"


class _Dripping(Handler):
    """Sends a picture, one byte a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(RED_CIRCLE)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the gateway has left
            for byte in RED_CIRCLE:
                self.wfile.write(bytes([byte]))
                time.sleep(1)


@pytest.fixture(scope="module")
def tar_pit() -> Iterator[str]:
    """The address of a web server that takes minutes for one picture."""
    with web_server(_Dripping) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def fetching(
    triton: TritonServer, start_gateway: GatewayFactory, web: str, tar_pit: str, log: Path
) -> Iterator[GatewayClient]:
    """A gateway that may fetch from this machine, and from the ports of those servers alone."""
    with start_gateway(
        Outside(log=log),
        log_level="debug",
        triton_address=triton.addresses.grpc,
        fetch_urls=True,
        fetch_private=True,
        fetch_ports=f"[{web.rpartition(':')[2]}, {tar_pit.rpartition(':')[2]}]",
    ) as client:
        yield client


@pytest.fixture
def stub(fetching: GatewayClient) -> Iterator[clip_pb2_grpc.ClipServiceStub]:
    with grpc.insecure_channel(fetching.grpc_address) as channel:
        yield clip_pb2_grpc.ClipServiceStub(channel)


def embedded(api: httpx.Client, *images: str, **options: str) -> httpx.Response:
    body = {"input": [{"image": image} for image in images]}
    return api.post("/v1/embeddings", json=body | options)


def assert_error(response: httpx.Response, code: str, param: str, *words: str) -> None:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    for word in words:
        assert word in error["message"]


def test_a_fetched_image_has_the_vector_of_the_same_image_sent(
    fetching: GatewayClient, web: str
) -> None:
    url = f"{web}/red-circle.png"
    named = url.replace("127.0.0.1", "localhost")
    answer = embedded(fetching, url, named, f"{web}/moved.png", DATA_URL)
    assert answer.status_code == 200, answer.text
    vectors = [row["embedding"] for row in answer.json()["data"]]
    assert vectors == [vectors[-1]] * 4
    assert "fetch;dur=" in answer.headers["server-timing"]


def test_every_route_takes_urls(fetching: GatewayClient, web: str) -> None:
    url = f"{web}/red-circle.png"
    sent = {"labels": ["red circle", "blue star"], "image": url}
    best = fetching.post("/v1/zero-shot", json=sent).json()["results"][0]["predictions"][0]
    assert best["label"] == "red circle"
    compared = fetching.post("/v1/similarity", json={"texts": ["a red circle"], "images": [url]})
    assert compared.json()["cosine"][0][0] > 0.8
    ranked = fetching.post(
        "/v1/rerank", json={"query": "a red circle", "documents": [{"image": url}]}
    )
    assert ranked.json()["results"][0]["relevance_score"] > 0.8
    plain = fetching.post("/v1/embeddings", json={"input": url, "modality": "image"})
    assert plain.json()["usage"]["num_images"] == 1
    part = {"type": "image_url", "image_url": {"url": url}}
    chat = fetching.post("/v1/embeddings", json={"messages": [{"role": "user", "content": [part]}]})
    assert chat.json()["usage"]["num_images"] == 1


def test_a_url_that_is_text_stays_text(fetching: GatewayClient, web: str) -> None:
    answer = fetching.post("/v1/embeddings", json={"input": f"{web}/red-circle.png"})
    assert answer.json()["usage"]["num_images"] == 0


def test_grpc_takes_urls(stub: Any, web: str) -> None:
    items = [clip_pb2.Item(image_url=f"{web}/red-circle.png"), clip_pb2.Item(image=RED_CIRCLE)]
    answer = stub.Embed(clip_pb2.EmbedRequest(input=items))
    rows = [row.embedding.vector for row in answer.results]
    fetched, sent = (np.frombuffer(row, "<f4") for row in rows)
    np.testing.assert_array_equal(fetched, sent)


def test_a_stream_takes_urls(stub: Any, web: str) -> None:
    urls = {"good": f"{web}/moved.png", "inside": f"{web}/inside.png", "gone": f"{web}/gone.png"}
    items = [clip_pb2.StreamItem(id=i, item=clip_pb2.Item(image_url=u)) for i, u in urls.items()]
    answers = stub.EmbedStream(iter([clip_pb2.EmbedStreamRequest(items=items)]))
    found = {result.id: result for answer in answers for result in answer.results}
    assert found["good"].embedding.vector
    for name, code in (("inside", "url_not_allowed"), ("gone", "url_failed")):
        assert (found[name].error.code, found[name].error.retryable) == (code, False)


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("http://169.254.169.254/latest/meta-data/", "url_not_allowed", "GATEWAY_FETCH_PORTS"),
        ("{web}/inside.png", "url_not_allowed", "GATEWAY_FETCH_PORTS"),
        ("{metadata}/", "url_not_allowed", "has no address, or not only public ones"),
        ("file:///etc/passwd", "url_not_allowed", "only http:// and https://"),
        ("{web}/gone.png", "url_failed", "status 404"),
        ("{web}/text.png", "invalid_image", "image"),
    ],
)
def test_what_cannot_be_had_is_told_of_its_item(
    fetching: GatewayClient, stub: Any, web: str, url: str, code: str, words: str
) -> None:
    metadata = web.replace("127.0.0.1", "169.254.169.254")
    url = url.replace("{web}", web).replace("{metadata}", metadata)
    assert_error(embedded(fetching, DATA_URL, url), code, "input[1]", words)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(clip_pb2.EmbedRequest(input=[clip_pb2.Item(image_url=url)]))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert trailing(caught.value)["error-code"] == code
    assert trailing(caught.value)["error-param"] == "input[0]"


def test_a_bad_url_can_be_skipped(fetching: GatewayClient, web: str) -> None:
    answer = embedded(fetching, f"{web}/gone.png", f"{web}/red-circle.png", on_error="skip")
    failed, good = answer.json()["data"]
    assert (failed["object"], failed["error"]["code"]) == ("error", "url_failed")
    assert good["object"] == "embedding"


def sent_to_tar_pit(fetching: GatewayClient, tar_pit: str) -> httpx.Response:
    body = {"input": [{"image": f"{tar_pit}/{n}.png"} for n in range(256)], "on_error": "skip"}
    headers = {"x-request-timeout-ms": "8000"}
    return fetching.post("/v1/embeddings", json=body, headers=headers)


def streamed_to_tar_pit(stub: Any, tar_pit: str) -> list[Any]:
    items = [
        clip_pb2.StreamItem(id=str(n), item=clip_pb2.Item(image_url=f"{tar_pit}/{n}.png"))
        for n in range(128)
    ]
    return list(stub.EmbedStream(iter([clip_pb2.EmbedStreamRequest(items=items)]), timeout=8))


def test_a_host_that_drips_holds_up_only_those_who_name_it(
    fetching: GatewayClient, stub: Any, web: str, tar_pit: str
) -> None:
    """Its items fail alone and in time, and meanwhile others are served."""
    with ThreadPoolExecutor(2) as threads:
        sent = threads.submit(sent_to_tar_pit, fetching, tar_pit)
        streamed = threads.submit(streamed_to_tar_pit, stub, tar_pit)
        time.sleep(0.5)  # in which they take all that they can
        served = 0
        while not (sent.done() or streamed.done()):
            answer = embedded(fetching, f"{web}/red-circle.png")
            assert answer.status_code == 200, answer.text
            served += not (sent.done() or streamed.done())
        assert served > 1, "others had to wait for the tar pit"
        answer = sent.result()
    assert answer.status_code == 200, answer.text
    assert [each["error"]["code"] for each in answer.json()["data"]] == ["url_failed"] * 256
    results = [result for message in streamed.result() for result in message.results]
    assert [result.error.code for result in results] == ["url_failed"] * 128


def test_what_cannot_be_fetched_is_counted_as_fetching(
    fetching: GatewayClient, web: str, log: Path
) -> None:
    body = {"input": [{"image": f"{web}/gone.png"}]}
    fetching.post("/v1/embeddings", json=body, headers={"x-request-id": "in-vain"})
    wait_until(lambda: "in-vain" in log.read_text())
    [line] = [line for line in log.read_text().splitlines() if "in-vain" in line]
    assert "fetch_ms" in line


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/a.png", "HTTPS://example.com/a.png", "ftp://a/b"]
)
def test_nothing_is_fetched_unless_that_is_set(api: httpx.Client, url: str) -> None:
    assert_error(embedded(api, url), "url_not_allowed", "input[0]", "does not fetch URLs")


def test_urls_are_not_logged(fetching: GatewayClient, web: str, log: Path) -> None:
    answer = embedded(fetching, f"{web}/moved.png", f"{web}/gone.png", on_error="skip")
    wait_until(
        lambda: answer.headers["x-request-id"] in log.read_text(), "the request was not logged"
    )
    for word in (".png", "localhost", f":{web.rpartition(':')[2]}"):
        assert word not in log.read_text()
