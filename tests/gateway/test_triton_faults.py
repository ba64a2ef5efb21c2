"""Faults of Triton, staged with real processes: the errors that clients get, and the recovery."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from gateway.models.manifest import read_manifest
from gateway.models.tokenizer import TextTokenizer
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from tests.conftest import REPOSITORY, GatewayClient, GatewayFactory, Outside, run_gateway
from tests.gateway.scraping import scrape, value
from tests.gateway.steady import golden_values
from tests.gateway.tritons import SteeredTriton, copied, failing, scaled, steered, write_impostor
from tests.gateway.waiting import inflight, wait_until
from tests.items import RED_CIRCLE

pytestmark = pytest.mark.slow

SOON_S = 12.0  # two seconds are promised; the rest is for a machine full of other tests
OPENS_S = 20.0
IMAGE_MODEL, TEXT_MODEL = "demo.image", "demo.text"

Service = tuple[SteeredTriton, GatewayClient]


@pytest.fixture(scope="module")
def triton() -> Iterator[SteeredTriton]:
    with steered() as triton:
        yield triton


@pytest.fixture
def service(triton: SteeredTriton, start_gateway: GatewayFactory) -> Iterator[Service]:
    """One call at a time and no cache, so that it is known what waits."""
    with start_gateway(triton_address=triton.address, text_cache_bytes=0, triton_calls=1) as api:
        wait_until(lambda: api.get("/readyz").status_code == httpx.codes.OK, within=OPENS_S)
        yield triton, api


@pytest.fixture
def patient(triton: SteeredTriton) -> Iterator[Service]:
    with waiting_for(triton) as service:
        yield service


@contextlib.contextmanager
def waiting_for(triton: SteeredTriton) -> Iterator[Service]:
    """As `service`; a silent Triton is given the time that the test takes to stage its part."""
    code = "import runpy; from gateway.inference import server; "
    run = "server.SILENT_S = 300; runpy.run_module('gateway', run_name='__main__')"
    outside = Outside(command=(sys.executable, "-c", code + run))
    address = triton.address
    with run_gateway(outside, triton_address=address, text_cache_bytes=0, triton_calls=1) as api:
        wait_until(lambda: api.get("/readyz").status_code == httpx.codes.OK, within=OPENS_S)
        yield triton, api


def token_of(word: str) -> int:
    manifest = read_manifest(REPOSITORY / "demo.manifest.json")
    _, token, _ = TextTokenizer(manifest.tokenizer, REPOSITORY).encode(word).ids
    return int(token)


def soon(condition: Callable[[], bool]) -> None:
    wait_until(condition, within=SOON_S)


async def working_on(api: httpx.Client, count: int, protocol: str = "rest") -> None:
    """Wait until it works on this number of requests."""
    held = partial(wait_until, lambda: inflight(api, protocol) == count)
    await asyncio.to_thread(held, f"not {count} requests")


def embed(api: httpx.Client, text: str = "a star", timeout_ms: int = 10_000) -> httpx.Response:
    headers = {"x-request-timeout-ms": str(timeout_ms)}
    return api.post("/v1/embeddings", json={"input": text}, headers=headers)


def assert_away(api: httpx.Client, response: httpx.Response) -> None:
    assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE, response.text
    assert response.json()["error"]["code"] in {"unavailable", "wrong_model"}
    assert int(response.headers["retry-after"]) >= 1
    ready = api.get("/readyz")
    assert ready.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert api.get("/livez").status_code == httpx.codes.OK


def test_refused_until_it_is_there(start_gateway: GatewayFactory) -> None:
    triton = SteeredTriton()
    with start_gateway(triton_address=triton.address) as api:
        for _ in range(10):
            assert_away(api, embed(api, timeout_ms=1_000))
        broken = 'openclip_triton_servers{state="broken"} 1.0'
        wait_until(lambda: broken in api.get("/metrics").text)
        picture = api.post("/v1/embeddings/image", content=RED_CIRCLE)
        assert_away(api, picture)
        assert "decode" not in picture.headers.get("server-timing", "")
        with grpc.insecure_channel(api.grpc_address) as channel:
            stub = clip_pb2_grpc.ClipServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.Embed(clip_pb2.EmbedRequest(input=[clip_pb2.Item(text="x")]), timeout=5)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "retry-after" in dict(refused.value.trailing_metadata())
        triton.start()
        try:
            soon(lambda: embed(api).status_code == httpx.codes.OK)
            soon(lambda: api.get("/readyz").status_code == httpx.codes.OK)
        finally:
            triton.stop()


def test_hung(service: Service) -> None:
    triton, api = service
    golden = golden_values(api)["image"]
    triton.freeze()
    try:
        assert embed(api, timeout_ms=500).status_code == httpx.codes.GATEWAY_TIMEOUT
        # While calls hang, their server is probed; from then on nobody waits for it.
        wait_until(lambda: embed(api, timeout_ms=1_000).status_code == 503, within=OPENS_S)
        for _ in range(20):
            assert_away(api, embed(api))
        assert "does not answer" in api.get("/readyz").json()["error"]["message"]
    finally:
        triton.thaw()
    soon(lambda: embed(api).status_code == httpx.codes.OK)
    [entry] = api.post("/v1/embeddings/image", content=RED_CIRCLE).json()["data"]
    assert np.array(entry["embedding"]) @ golden > 0.9999


async def test_slow_is_waited_for(service: Service) -> None:
    triton, api = service
    triton.freeze()
    try:
        asking = asyncio.create_task(asyncio.to_thread(embed, api))
        await asyncio.sleep(1.0)
        assert not asking.done()
    finally:
        triton.thaw()
    assert (await asking).status_code == httpx.codes.OK


def test_an_unloaded_model_costs_only_itself(service: Service) -> None:
    triton, api = service
    assert embed(api).status_code == httpx.codes.OK
    triton.control("unload", TEXT_MODEL)
    try:
        soon(lambda: embed(api).status_code == 503)
        assert TEXT_MODEL in embed(api).json()["error"]["message"]
        assert api.post("/v1/embeddings/image", content=RED_CIRCLE).status_code == httpx.codes.OK
        soon(lambda: api.get("/readyz").status_code == 503)
        assert TEXT_MODEL in api.get("/readyz").json()["error"]["message"]
    finally:
        triton.control("load", TEXT_MODEL)
    soon(lambda: embed(api).status_code == httpx.codes.OK)
    soon(lambda: api.get("/readyz").status_code == httpx.codes.OK)


def test_a_model_replaced_under_a_living_triton_is_found_out(
    start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    impostor = write_impostor(tmp_path) / TEXT_MODEL / "1" / "model.onnx"
    repository = copied(tmp_path)
    replaced = repository / TEXT_MODEL / "1" / "model.onnx"
    right = replaced.read_bytes()
    with (
        steered(repository) as triton,
        start_gateway(triton_address=triton.address, triton_verify_s=0.2) as api,
    ):
        texts = (f"text {number}" for number in itertools.count())
        known = np.array(embed(api).json()["data"][0]["embedding"])
        replaced.write_bytes(impostor.read_bytes())
        triton.control("load", TEXT_MODEL)
        soon(lambda: embed(api, next(texts)).status_code == 503)
        for number in range(20):
            assert_away(api, embed(api, f"another {number}"))
        assert "golden vector" in api.get("/readyz").json()["error"]["message"]
        assert embed(api).status_code == 503  # nothing is known for sure any more
        replaced.write_bytes(right)
        triton.control("load", TEXT_MODEL)
        soon(lambda: embed(api, next(texts)).status_code == httpx.codes.OK)
        assert known @ np.array(embed(api).json()["data"][0]["embedding"]) > 0.9999


def test_a_model_whose_vectors_are_too_long_is_found_out(
    start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    """Their cosine with the golden vector would be a hundred."""
    repository = copied(tmp_path)
    replaced = repository / TEXT_MODEL / "1" / "model.onnx"
    right = replaced.read_bytes()
    with (
        steered(repository) as triton,
        start_gateway(triton_address=triton.address) as api,  # which does not look by itself
    ):
        known = np.array(embed(api).json()["data"][0]["embedding"])
        replaced.write_bytes(scaled(right, 100))
        triton.control("load", TEXT_MODEL)
        first = embed(api, "a circle")
        assert (first.status_code, first.json()["error"]["code"]) == (500, "internal_error")
        for number in range(5):
            assert_away(api, embed(api, f"text {number}"))
        assert "unit length" in api.get("/readyz").json()["error"]["message"]
        assert embed(api).status_code == 503  # nothing is known for sure any more
        replaced.write_bytes(right)
        triton.control("load", TEXT_MODEL)
        soon(lambda: embed(api, "a circle").status_code == httpx.codes.OK)
        assert known @ np.array(embed(api).json()["data"][0]["embedding"]) > 0.9999


def test_an_input_that_a_model_fails_on_is_doubted_once(
    start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    """Its golden vector is right all the time."""
    repository, sets = copied(tmp_path), tmp_path / "sets"
    model = repository / TEXT_MODEL / "1" / "model.onnx"
    model.write_bytes(scaled(model.read_bytes(), 0, only=token_of("zebra")))
    sets.mkdir()
    (sets / "shapes.yaml").write_text('{"name": "shapes", "labels": ["circle", "square"]}')
    with (
        steered(repository) as triton,
        start_gateway(triton_address=triton.address, triton_verify_s=0.2, label_sets=sets) as api,
    ):
        wait_until(lambda: api.get("/readyz").status_code == httpx.codes.OK, within=OPENS_S)

        def misses() -> float:
            return value(scrape(api), "cache_misses_total")

        assert embed(api).status_code == httpx.codes.OK
        before = misses()
        assert embed(api, "a zebra").status_code == 500
        # It, and the labels once more, each as a text and as a row of a classifier.
        wait_until(lambda: misses() == before + 5)
        assert embed(api).status_code == httpx.codes.OK
        assert misses() == before + 6  # what was known is forgotten
        for _ in range(5):
            assert embed(api, "a zebra").status_code == 500  # and is kept nowhere
            assert embed(api).status_code == httpx.codes.OK
            assert api.get("/readyz").status_code == httpx.codes.OK
        assert misses() == before + 11


async def test_a_text_that_a_model_fails_on_costs_only_its_own_request(tmp_path: Path) -> None:
    repository = copied(tmp_path)
    model = repository / TEXT_MODEL / "1" / "model.onnx"
    model.write_bytes(failing(model.read_bytes(), token_of("zebra")))
    texts = ["a red circle", "a zebra", "a blue star", "a zebra of stone"]
    with steered(repository) as triton, waiting_for(triton) as (_, api):
        alone = [embed(api, text) for text in texts]
        assert [each.status_code for each in alone] == [200, 500, 200, 500]
        joined = 0
        async with httpx.AsyncClient(base_url=api.base_url, timeout=30) as client:
            while not joined:  # unless all were tokenized when Triton went on
                failed = triton.failed(TEXT_MODEL)
                triton.freeze()
                asked = [client.post("/v1/embeddings", json={"input": each}) for each in texts]
                asking = [asyncio.create_task(each) for each in asked]
                await working_on(api, len(texts))
                triton.thaw()
                answers = await asyncio.gather(*asking)
                assert [each.status_code for each in answers] == [200, 500, 200, 500]
                joined = triton.failed(TEXT_MODEL) - failed - 2
    for first, then in zip(alone, answers, strict=True):
        if first.is_success:
            [was], [found] = (each.json()["data"] for each in (first, then))
            assert np.array(was["embedding"]) @ np.array(found["embedding"]) > 0.9999


async def test_what_clients_that_left_wanted_is_not_encoded(patient: Service) -> None:
    triton, api = patient
    before = triton.encoded(IMAGE_MODEL)
    triton.freeze()
    try:
        async with httpx.AsyncClient(base_url=api.base_url, timeout=30) as client:
            first = asyncio.create_task(client.post("/v1/embeddings/image", content=RED_CIRCLE))
            await working_on(api, 1)
            await asyncio.sleep(0.3)  # it is decoded and under way, and the lane is full
            async with httpx.AsyncClient(base_url=api.base_url, timeout=30) as hasty:
                asked = [hasty.post("/v1/embeddings/image", content=RED_CIRCLE) for _ in range(5)]
                leaving = [asyncio.create_task(each) for each in asked]
                await working_on(api, 6)
                for each in leaving:
                    each.cancel()
                await asyncio.gather(*leaving, return_exceptions=True)
            await working_on(api, 1)
            async with grpc.aio.insecure_channel(api.grpc_address) as channel:
                stub = clip_pb2_grpc.ClipServiceStub(channel)
                image = clip_pb2.EmbedRequest(input=[clip_pb2.Item(image=RED_CIRCLE)])
                calls = [stub.Embed(image) for _ in range(5)]
                asking = [asyncio.ensure_future(call) for call in calls]
                await working_on(api, 5, "grpc")
                for call in calls:
                    call.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
            await working_on(api, 0, "grpc")
            triton.thaw()
            assert (await first).status_code == httpx.codes.OK
            after = await client.post("/v1/embeddings/image", content=RED_CIRCLE)
            assert after.status_code == httpx.codes.OK
    finally:
        triton.thaw()
    assert triton.encoded(IMAGE_MODEL) - before == 2


async def test_the_interactive_passes_the_bulk(patient: Service) -> None:
    triton, api = patient
    ended: list[str] = []

    async def ask(client: httpx.AsyncClient, name: str, texts: list[str]) -> None:
        response = await client.post("/v1/embeddings", json={"input": texts})
        assert response.status_code == httpx.codes.OK
        ended.append(name)

    triton.freeze()
    try:
        async with httpx.AsyncClient(base_url=api.base_url, timeout=30) as client:
            bulk = [
                asyncio.create_task(ask(client, "bulk", [f"{n} {i}" for i in range(250)]))
                for n in range(4)
            ]
            await working_on(api, 4)
            urgent = [asyncio.create_task(ask(client, "urgent", [f"u {n}"])) for n in range(4)]
            await working_on(api, 8)
            await asyncio.sleep(0.5)  # all are tokenized and wait
            triton.thaw()
            await asyncio.gather(*bulk, *urgent)
    finally:
        triton.thaw()
    assert ended == ["urgent"] * 4 + ["bulk"] * 4
