"""Metrics: every one that is documented exists, with right labels and values, on both protocols."""

import re
from collections.abc import Iterator

import grpc
import httpx
import pytest

from gateway.telemetry.metrics import Metrics
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import ROOT, GatewayClient, GatewayFactory
from tests.gateway.scraping import PREFIX, Samples, scrape, value
from tests.gateway.waiting import wait_until
from tests.items import RED_CIRCLE, data_url

PAGE = (ROOT / "docs" / "operations.md").read_text()


def ask_rest(client: httpx.Client) -> None:
    picture = data_url(RED_CIRCLE)
    for text in ("one", "two", "one"):
        assert client.post("/v1/embeddings", json={"input": text}).is_success
    assert client.post("/v1/embeddings", json={"input": ["three", picture]}).is_success
    bad = {"input": ["four", "data:image/png;base64,AAAA"], "on_error": "skip"}
    assert client.post("/v1/embeddings", json=bad).is_success
    assert client.post("/v1/embeddings/image", content=RED_CIRCLE).is_success
    zero_shot = {"image": picture, "labels": ["red circle", "blue star"]}
    assert client.post("/v1/zero-shot", json=zero_shot).is_success
    for number in range(3):
        unknown = {"input": "five", "model": f"unknown-{number}"}
        assert client.post("/v1/embeddings", json=unknown).status_code == 404
        assert client.get(f"/v1/models/unknown-{number}").status_code == 404
        assert client.get(f"/nowhere/{number}").status_code == 404
        assert client.request(("PUT", "PATCH", "DELETE")[number], "/v1/models").status_code == 405
    assert client.post("/v1/embeddings", content=b"{").status_code == 400


def ask_grpc(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = clip_pb2_grpc.ClipServiceStub(channel)
        items = [clip_pb2.Item(text="one"), clip_pb2.Item(image=RED_CIRCLE)]
        stub.Embed(clip_pb2.EmbedRequest(input=items))
        entries = [clip_pb2.StreamItem(id=str(n), item=items[n]) for n in range(2)]
        entries.append(clip_pb2.StreamItem(id="bad", item=clip_pb2.Item(image=b"bad")))
        messages = [clip_pb2.EmbedStreamRequest(items=entries)]
        list(stub.EmbedStream(iter(messages)))
        with pytest.raises(grpc.RpcError):
            stub.Embed(clip_pb2.EmbedRequest(input=items, model="unknown"))


def settled(client: httpx.Client, calls: int) -> None:
    """Wait until gRPC calls are counted, which is after their clients have their answers."""
    wait_until(lambda: value(scrape(client), "requests_total", protocol="grpc") >= calls)


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, start_gateway: GatewayFactory) -> Iterator[GatewayClient]:
    with start_gateway(triton_address=triton.addresses.grpc) as client:
        assert client.get("/readyz").is_success
        ask_rest(client)
        ask_grpc(client.grpc_address)
        settled(client, calls=3)
        yield client


@pytest.fixture(scope="module")
def samples(gateway: GatewayClient) -> Samples:
    return scrape(gateway)


def test_the_page_of_the_routes_has_names(gateway: GatewayClient) -> None:
    page = gateway.get("/docs")
    [file] = set(re.findall(r"/static-offline-docs/[\w.-]+\.js", page.text))
    for path in ("/openapi.json", file, "/static-offline-docs/nothing.js"):
        gateway.get(path)
    found = scrape(gateway)
    for name, code in (
        ("/docs", 200), ("/openapi.json", 200), ("/static-offline-docs", 200),
        ("/static-offline-docs", 404),
    ):  # fmt: skip
        assert value(found, "requests_total", operation=name, code=str(code)) == 1


def test_requests(samples: Samples) -> None:
    def requests(**labels: str) -> float:
        return value(samples, "requests_total", **labels)

    embeddings = {"protocol": "rest", "operation": "/v1/embeddings"}
    assert requests(**embeddings, model="demo", modality="text", code="200") == 4
    assert requests(**embeddings, model="demo", modality="mixed", code="200") == 1
    assert requests(**embeddings, model="", modality="", code="404") == 3
    assert requests(**embeddings, model="", modality="", code="400") == 1
    upload = {"protocol": "rest", "operation": "/v1/embeddings/image"}
    assert requests(**upload, model="demo", modality="image", code="200") == 1
    assert requests(protocol="rest", operation="", code="404") == 3
    assert requests(protocol="grpc", operation="Embed", modality="mixed", code="OK") == 1
    assert requests(protocol="grpc", operation="Embed", model="", code="NOT_FOUND") == 1
    assert requests(protocol="grpc", operation="EmbedStream", model="demo", code="OK") == 1


def test_durations(samples: Samples) -> None:
    for name, labels in (
        ("request_duration_seconds", {"protocol": "rest", "operation": "/v1/embeddings"}),
        ("request_duration_seconds", {"protocol": "grpc", "operation": "Embed", "model": "demo"}),
        *(("stage_duration_seconds", {"stage": stage, "model": "demo"}) for stage in (
            "decode", "tokenize", "queue", "infer", "encode",
        )),
    ):  # fmt: skip
        count = value(samples, f"{name}_count", **labels)
        assert count > 0, (name, labels)
        assert 0 < value(samples, f"{name}_sum", **labels) < 60 * count
        assert value(samples, f"{name}_bucket", le="+Inf", **labels) == count


def test_items(samples: Samples) -> None:
    def items(**labels: str) -> float:
        return value(samples, "items_total", model="demo", **labels)

    assert items(protocol="rest", modality="text", result="ok") == 5
    assert items(protocol="rest", modality="image", result="ok") == 3
    assert items(protocol="rest", result="error") == 1
    assert items(protocol="grpc", modality="text", result="ok") == 2
    assert items(protocol="grpc", modality="image", result="ok") == 2
    assert items(protocol="grpc", result="error") == 1


def test_rejections(samples: Samples) -> None:
    assert value(samples, "rejected_total", protocol="rest", reason="model_not_found") == 6
    assert value(samples, "rejected_total", protocol="rest", reason="invalid_request") == 1
    assert value(samples, "rejected_total", protocol="grpc", reason="model_not_found") == 1


def test_what_is_in_flight(gateway: GatewayClient) -> None:
    found = scrape(gateway)
    assert value(found, "inflight", protocol="rest") == 1  # the scrape itself
    assert value(found, "inflight", protocol="grpc") == 0


def test_calls_of_triton(samples: Samples) -> None:
    for tower in ("demo.image", "demo.text"):
        assert value(samples, "batch_items_count", tower=tower) > 0
    # Every image went to Triton; of the texts, those that were not known.
    assert value(samples, "batch_items_sum", tower="demo.image") == 5
    assert value(samples, "batch_items_sum", tower="demo.text") == 6


def test_the_cache(samples: Samples) -> None:
    # one, two, three, four; a look-up for each label, and one for its text; of each of these the
    # first is a miss. Over gRPC `one` is known.
    assert value(samples, "cache_misses_total") == 8
    assert value(samples, "cache_hits_total") == 3


def test_models(gateway: GatewayClient, samples: Samples) -> None:
    [model] = gateway.get("/v1/models").json()["data"]
    told = {name: model[name] for name in ("fingerprint", "precision", "runtime")}
    assert value(samples, "model_info", model="demo", **told) == 1


def test_labels_are_bounded(gateway: GatewayClient) -> None:
    before = scrape(gateway)
    ask_rest(gateway)
    ask_grpc(gateway.grpc_address)
    settled(gateway, calls=6)
    assert scrape(gateway).keys() == before.keys()
    assert not any("unknown" in text for _, labels in before for _, text in labels)


def test_every_metric_is_documented_and_the_other_way_round() -> None:
    rendered = Metrics().rendered().decode()
    exposed = {
        f"{name}_total" if kind == "counter" and not name.endswith("_total") else name
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", rendered, re.MULTILINE)
        if not name.endswith("_created")
    }
    documented = set(re.findall(r"^\| `(openclip_\w+)` \|", PAGE, re.MULTILINE))
    assert documented == exposed
    assert len(exposed) > 10


@pytest.mark.parametrize(
    "name",
    [
        "requests_total", "request_duration_seconds", "stage_duration_seconds", "items_total",
        "rejected_total", "inflight", "batch_items", "cache_hits_total", "cache_misses_total",
        "model_info",
    ],
)  # fmt: skip
def test_what_dashboards_rely_on_exists(samples: Samples, name: str) -> None:
    names = {sample for sample, _ in samples}
    assert {PREFIX + name, f"{PREFIX}{name}_count"} & names
