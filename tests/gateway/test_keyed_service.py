"""API keys and quotas of a real gateway, over both protocols."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from openclip_triton import Client, Unauthenticated

from gateway.rest.security import guarded_operation
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, Outside, free_port
from tests.gateway.keyed import Keys, bearer, call, embed, metadata, trailing
from tests.gateway.waiting import unfinished_request, wait_until

OPEN = [
    "/livez", "/readyz", "/health", "/v1/health", "/v1/health/live", "/v1/health/ready",
    "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/", "/playground/main.js",
]  # fmt: skip
GUARDED = [
    ("GET", "/v1/models"), ("GET", "/v1/models/demo"), ("GET", "/metrics"), ("GET", "/nothing"),
    ("POST", "/v1/embeddings"), ("POST", "/v1/embeddings/image"), ("POST", "/v1/zero-shot"),
    ("POST", "/v1/similarity"), ("POST", "/v1/rerank"), ("POST", "/"), ("OPTIONS", "/livez"),
    ("GET", "/livez/"), ("GET", "/LIVEZ"), ("GET", "/playground"), ("POST", "/v1/admin/reload"),
]  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.yaml")
    made.add("alice")
    return made


@pytest.fixture(scope="module")
def guarded(
    triton: TritonServer, start_gateway: GatewayFactory, keys: Keys, log: Path
) -> Iterator[GatewayClient]:
    """A gateway that asks for keys, and logs everything it can into a file."""
    with start_gateway(
        Outside(log=log),
        triton_address=triton.addresses.grpc,
        api_keys_file=keys.path,
        log_format="json",
        log_level="debug",
    ) as client:
        yield client


@pytest.fixture
def channel(guarded: GatewayClient) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(guarded.grpc_address) as made:
        yield made


def listing(api: httpx.Client, secret: str) -> int:
    """The status of a request with a key that costs nothing of its quota."""
    return api.get("/v1/models", headers=bearer(secret)).status_code


def known(api: httpx.Client, keys: Keys, name: str, **quota: int) -> str:
    """A key that the gateway has read by now."""
    secret = keys.add(name, **quota)
    wait_until(lambda: listing(api, secret) != 401, "the file was not read again")
    return secret


def assert_unauthenticated(response: httpx.Response) -> None:
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "unauthenticated")
    assert error["param"] is None


def assert_over_quota(response: httpx.Response) -> int:
    assert response.status_code == 429
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "quota_exceeded")
    return int(response.headers["retry-after"])


def refused(channel: grpc.Channel, secret: str | None, status: grpc.StatusCode) -> dict[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, secret)
    assert caught.value.code() == status
    return trailing(caught.value)


def test_a_key_opens_both_protocols(
    guarded: GatewayClient, channel: grpc.Channel, keys: Keys
) -> None:
    assert embed(guarded, keys.secret("alice")).status_code == 200
    assert len(call(channel, keys.secret("alice")).results) == 1
    lower = {"authorization": f"bearer {keys.secret('alice')}"}
    assert guarded.get("/v1/models", headers=lower).status_code == 200


@pytest.mark.parametrize("path", OPEN)
def test_what_is_open(guarded: GatewayClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_what_is_guarded(guarded: GatewayClient, method: str, path: str) -> None:
    assert_unauthenticated(guarded.request(method, path))


@pytest.mark.parametrize(
    ("path", "message"),
    [("/v1/embeddings", "/v1/embeddings 401"), ("/metrics", "/metrics 401"),
     ("/v1/models/nobody", "/v1/models/{model_id:path} 401"), ("/v1/else", "no route 401")],
)  # fmt: skip
def test_the_log_tells_what_was_refused(
    guarded: GatewayClient, log: Path, path: str, message: str
) -> None:
    name = f"refused{path.replace('/', '-')}"
    assert_unauthenticated(guarded.get(path, headers={"x-request-id": name}))
    mark = f'"{name}"'
    wait_until(lambda: mark in log.read_text(), "the line in the log")
    [line] = [json.loads(each) for each in log.read_text().splitlines() if name in each]
    assert (line["message"], line["level"]) == (message, "info")


def test_every_guarded_route_is_known(guarded: GatewayClient) -> None:
    refused = {
        path
        for path, methods in guarded.get("/openapi.json").json()["paths"].items()
        for method in methods
        if guarded.request(method, path).status_code == 401
    }
    assert {"/v1/embeddings", "/v1/models"} <= refused
    assert not [path for path in refused if not guarded_operation(path)]


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Basic YTpi", "Bearer wrong", "Bearer {}x",
        "Bearer {} {}", "{}", "Basic {}", "Bearer\u00e9 {}", "Bearer \u00e9",
    ],
)  # fmt: skip
def test_wrong_keys(guarded: GatewayClient, channel: grpc.Channel, keys: Keys, header: str) -> None:
    header = header.replace("{}", keys.secret("alice"))
    assert_unauthenticated(
        guarded.get("/v1/models", headers={b"authorization": header.encode("latin-1")})
    )
    if header.isascii():
        with pytest.raises(grpc.RpcError) as caught:
            clip_pb2_grpc.ClipServiceStub(channel).Embed(
                clip_pb2.EmbedRequest(), metadata=(("authorization", header),)
            )
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_two_keys_are_none(guarded: GatewayClient, keys: Keys) -> None:
    secret = keys.secret("alice")
    headers = [("authorization", f"Bearer {secret}"), ("authorization", "Bearer other")]
    assert_unauthenticated(guarded.get("/v1/models", headers=headers))


def test_every_method_of_grpc_is_guarded(channel: grpc.Channel) -> None:
    stub = clip_pb2_grpc.ClipServiceStub(channel)
    calls: list[Any] = [
        lambda: stub.Embed(clip_pb2.EmbedRequest()),
        lambda: stub.Classify(clip_pb2.ClassifyRequest()),
        lambda: stub.Similarity(clip_pb2.SimilarityRequest()),
        lambda: stub.Rerank(clip_pb2.RerankRequest()),
        lambda: stub.ListModels(clip_pb2.ListModelsRequest()),
        lambda: next(stub.EmbedStream(iter([clip_pb2.EmbedStreamRequest()]))),
    ]
    for made in calls:
        with pytest.raises(grpc.RpcError) as caught:
            made()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert trailing(caught.value)["error-code"] == "unauthenticated"
        assert "retry-after" not in trailing(caught.value)


def test_health_and_reflection_of_grpc_are_open(channel: grpc.Channel) -> None:
    checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert checked.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    [answer] = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
    assert answer.list_services_response.service


def test_a_body_is_not_read_without_a_key(guarded: GatewayClient) -> None:
    with closing(socket.create_connection((guarded.base_url.host, guarded.base_url.port))) as raw:
        raw.settimeout(20)
        raw.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n{")
        assert raw.recv(100).startswith(b"HTTP/1.1 401")


def test_a_key_is_revoked_while_the_gateway_runs(
    guarded: GatewayClient, channel: grpc.Channel, keys: Keys
) -> None:
    secret = known(guarded, keys, "revoked")
    stub = clip_pb2_grpc.ClipServiceStub(channel)
    going = iter([clip_pb2.EmbedStreamRequest(items=[item("1")])])
    more: list[clip_pb2.EmbedStreamRequest] = []

    def requests() -> Iterator[clip_pb2.EmbedStreamRequest]:
        yield from going
        while not more:
            time.sleep(0.02)
        yield from more

    stream = stub.EmbedStream(requests(), metadata=metadata(secret))
    assert next(stream).results[0].embedding.vector
    assert call(channel, secret).results
    keys.revoke("revoked")
    wait_until(lambda: listing(guarded, secret) != 200, "a revoked key still holds")
    assert_unauthenticated(embed(guarded, secret))
    refused(channel, secret, grpc.StatusCode.UNAUTHENTICATED)
    more.append(clip_pb2.EmbedStreamRequest(items=[item("2")]))
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def item(name: str) -> clip_pb2.StreamItem:
    return clip_pb2.StreamItem(id=name, item=clip_pb2.Item(text=f"a red circle {name}"))


def test_items_a_minute(guarded: GatewayClient, channel: grpc.Channel, keys: Keys) -> None:
    """One quota for both protocols; the request that is over it costs nothing."""
    secret = known(guarded, keys, "bob", items_per_minute=20)
    assert embed(guarded, secret, items=12).status_code == 200
    assert len(call(channel, secret, items=7).results) == 7
    assert 1 <= assert_over_quota(embed(guarded, secret, items=12)) <= 60
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, secret, items=12)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert trailing(caught.value)["error-code"] == "quota_exceeded"
    assert 1 <= int(trailing(caught.value)["retry-after"]) <= 60
    assert embed(guarded, keys.secret("alice"), items=12).status_code == 200


def test_labels_cost_as_many_items_as_texts_are_made_of_them(
    guarded: GatewayClient, keys: Keys
) -> None:
    secret = known(guarded, keys, "labels", items_per_minute=100)
    body = {
        "image": "not looked at", "labels": ["a", "b"],
        "templates": [f"photo {i} of {{}}" for i in range(60)],
    }  # fmt: skip
    answer = guarded.post("/v1/zero-shot", json=body, headers=bearer(secret))
    assert answer.status_code == 400  # more than a minute's, so it is let in once
    again = guarded.post("/v1/zero-shot", json=body, headers=bearer(secret))
    assert assert_over_quota(again) > 60


def test_requests_at_a_time(guarded: GatewayClient, channel: grpc.Channel, keys: Keys) -> None:
    """A stream is one request, and counts for both protocols while it is open."""
    secret = known(guarded, keys, "carol", concurrency=1)
    assert call(channel, secret).results
    open_until: list[bool] = []

    def requests() -> Iterator[clip_pb2.EmbedStreamRequest]:
        yield clip_pb2.EmbedStreamRequest(items=[item("1")])
        while not open_until:
            time.sleep(0.02)

    stub = clip_pb2_grpc.ClipServiceStub(channel)
    stream = stub.EmbedStream(requests(), metadata=metadata(secret))
    assert next(stream).results
    assert assert_over_quota(embed(guarded, secret)) == 1
    assert int(refused(channel, secret, grpc.StatusCode.RESOURCE_EXHAUSTED)["retry-after"]) == 1
    open_until.append(True)
    assert list(stream) == []
    assert embed(guarded, secret).status_code == 200
    assert call(channel, secret).results


def test_a_request_in_progress_counts(guarded: GatewayClient, keys: Keys) -> None:
    secret = known(guarded, keys, "dave", concurrency=1)
    body = b'{"input": "a red circle"}'
    alice = bearer(keys.secret("alice"))
    with unfinished_request(guarded, body, bearer(secret), watching=alice) as raw:
        assert_over_quota(embed(guarded, secret))
        raw.sendall(body[1:])
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(lambda: embed(guarded, secret).status_code == 200, "what has ended still counts")


def test_a_stream_over_its_quota_is_slowed_to_it(
    guarded: GatewayClient, channel: grpc.Channel, keys: Keys
) -> None:
    secret = known(guarded, keys, "erin", items_per_minute=600)
    items = [item(str(index)) for index in range(100)]
    started = time.monotonic()
    assert embed(guarded, secret, items=256).status_code == 200
    assert embed(guarded, secret, items=256).status_code == 200
    stream = clip_pb2_grpc.ClipServiceStub(channel).EmbedStream(
        iter([clip_pb2.EmbedStreamRequest(items=items)]), metadata=metadata(secret)
    )
    results = [result for answer in stream for result in answer.results]
    assert all(result.embedding.vector for result in results)
    assert len({result.id for result in results}) == 100
    assert time.monotonic() - started > 1  # of 612 items 600 are free, and ten more each second


def test_our_client_brings_the_key(guarded: GatewayClient, keys: Keys) -> None:
    secret = known(guarded, keys, "frank", items_per_minute=120)
    with Client(guarded.grpc_address, api_key=secret) as client:
        started = time.monotonic()
        assert len(client.embed_texts(["a red circle"] * 60)) == 60
        assert len(client.embed_texts(["a blue star"] * 63)) == 63  # told to wait, and does
        assert time.monotonic() - started >= 1
    with Client(guarded.grpc_address, api_key=f"{secret}x") as client:
        for failing in (client.models, lambda: list(client.stream([(1, "a text")]))):
            with pytest.raises(Unauthenticated, match="not known"):
                failing()


def test_the_document_tells_of_keys(guarded: GatewayClient) -> None:
    document = guarded.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["security"] == [{"key": []}]


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_have_a_port_of_their_own(
    triton: TritonServer, start_gateway: GatewayFactory, keys: Keys, workers: int
) -> None:
    port = free_port()
    with start_gateway(
        triton_address=triton.addresses.grpc,
        api_keys_file=keys.path,
        metrics_port=port,
        workers=workers,
    ) as client:
        secret = keys.secret("alice")
        assert embed(client, secret).status_code == 200
        assert client.get("/metrics", headers=bearer(secret)).status_code == 404
        url = f"http://127.0.0.1:{port}"
        scraped = httpx.get(f"{url}/metrics", timeout=30)
        assert scraped.status_code == 200
        assert 'openclip_key_requests_total{code="200",key="alice"} 1.0' in scraped.text
        for path in ("/", "/v1/models", "/livez"):
            assert httpx.get(url + path, timeout=30).status_code == 404
        assert httpx.post(f"{url}/v1/embeddings", json={}, timeout=30).status_code == 501


def test_logs_and_metrics_name_keys_and_never_show_them(
    guarded: GatewayClient, channel: grpc.Channel, keys: Keys, log: Path
) -> None:
    secret = keys.secret("alice")
    unknown = "oct_an-unknown-secret-5A3C9F"
    bad: list[dict[str, str]] = [
        bearer(unknown), {"authorization": secret}, {"authorization": f"Basic {secret}"},
        bearer(secret) | {"x-request-timeout-ms": "no number"},
    ]  # fmt: skip
    shown = [embed(guarded, secret).text, embed(guarded, secret, items=300).text]
    shown += [guarded.post("/v1/embeddings", headers=each, json={}).text for each in bad]
    shown.append(guarded.post("/v1/embeddings", content=b"{", headers=bearer(secret)).text)
    call(channel, secret)
    for wrong in (unknown, f" {secret}x"):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, wrong)
        shown += [caught.value.details(), str(trailing(caught.value))]
    shown.append(guarded.get("/metrics", headers=bearer(secret)).text)
    wait_until(
        lambda: (
            log.read_text().count('"key":"alice"') >= 4 and "unauthenticated" in log.read_text()
        ),
        "requests were not logged with their key's name",
    )
    shown.append(log.read_text())
    for text in shown:
        assert "5A3C9F" not in text
    assert 'openclip_key_items_total{key="alice"}' in shown[-2]
    assert 'openclip_rejected_total{protocol="grpc",reason="unauthenticated"}' in shown[-2]
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {line["key"] for line in lines if "key" in line} >= {"alice"}
