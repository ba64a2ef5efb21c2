"""API keys and quotas of a real gateway, over both protocols."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from openclip_triton import Client, Unauthenticated

from gateway.app import ENDPOINTS
from gateway.rest.security import guarded_operation
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, Outside, free_port
from tests.gateway.keyed import Keys, bearer, call, embed, metadata, trailing
from tests.gateway.raw import connect
from tests.gateway.scraping import scrape, value
from tests.gateway.waiting import unfinished_request, wait_until
from tests.items import RED_CIRCLE, b64

OPEN = [
    "/livez", "/readyz", "/health", "/v1/health", "/v1/health/live", "/v1/health/ready",
    "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/", "/playground/main.js",
]  # fmt: skip
GUARDED = [
    ("GET", "/v1/models"), ("GET", "/v1/models/demo"), ("GET", "/v1/cards/demo"),
    ("GET", "/metrics"), ("GET", "/nothing"),
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
    sets = keys.path.parent / "sets"
    sets.mkdir()
    (sets / "shapes.yaml").write_text("{name: shapes, labels: [a square, a circle, a star]}")
    with start_gateway(
        Outside(log=log),
        triton_address=triton.addresses.grpc,
        api_keys_file=keys.path,
        label_sets=sets,
        max_text_characters=1_000,
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


def test_every_documented_route_is_guarded(guarded: GatewayClient) -> None:
    document = guarded.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation.get("security") != []:  # the document says that it needs no key
                assert_unauthenticated(guarded.request(method, re.sub(r"{\w+}", "any", path)))


@pytest.mark.parametrize(
    ("path", "message"),
    [("/v1/embeddings", "/v1/embeddings 401"), ("/metrics", "/metrics 401"),
     ("/v1/models/nobody", "/v1/models/{model_id:path} 401"),
     ("/v1/cards/nobody", "/v1/cards/{model_id:path} 401"), ("/v1/else", "no route 401")],
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
    endpoints = {each.path for each in ENDPOINTS}
    assert not [path for path in refused if not guarded_operation(path, endpoints)]


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
    with connect(guarded) as raw:
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


BASE64 = b64(RED_CIRCLE)
LONG = "a" * 600


METHODS = {
    "/v1/embeddings": "Embed", "/v1/zero-shot": "Classify",
    "/v1/similarity": "Similarity", "/v1/rerank": "Rerank",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A request over both protocols, and the items that it takes from a quota."""

    path: str
    body: dict[str, Any]
    message: Message | None  # None: gRPC cannot say it
    items: int = 0


def texts(*given: str) -> list[clip_pb2.Item]:
    return [clip_pb2.Item(text=text) for text in given]


def embedding(items: int, *given: str, **more: Any) -> Case:
    message = clip_pb2.EmbedRequest(input=texts(*given), **more)
    return Case("/v1/embeddings", {"input": list(given)} | more, message, items)


def classification(items: int, images: int = 1, **more: Any) -> Case:
    pictures = [clip_pb2.Item(image=RED_CIRCLE)] * images
    named = isinstance(more.get("templates"), str)
    said = {"template_set" if named and k == "templates" else k: v for k, v in more.items()}
    message = clip_pb2.ClassifyRequest(images=pictures, **said)
    return Case("/v1/zero-shot", {"images": [BASE64] * images} | more, message, items)


def comparison(items: int, *given: str, images: int = 1, **more: Any) -> Case:
    pictures = [clip_pb2.Item(image=RED_CIRCLE)] * images
    message = clip_pb2.SimilarityRequest(images=pictures, texts=given, **more)
    body = {"images": [BASE64] * images, "texts": list(given)} | more
    return Case("/v1/similarity", body, message, items)


def ranking(items: int, query: str, *documents: str, **more: Any) -> Case:
    [asked] = texts(query)
    message = clip_pb2.RerankRequest(query=asked, documents=texts(*documents), **more)
    return Case("/v1/rerank", {"query": query, "documents": list(documents)} | more, message, items)


WRONG = {
    "no input": embedding(0),
    "too many items": embedding(0, *["a"] * 2_049),
    "unknown model": embedding(0, "a", model="none"),
    "wrong dimensions": embedding(0, "a", dimensions=4_000),
    "an empty text": embedding(0, "a", ""),
    "a long text": embedding(0, "a", "a" * 1_001),
    "an image by URL": Case(
        "/v1/embeddings",
        {"input": ["a", {"image": "http://127.0.0.1/a.png"}]},
        clip_pb2.EmbedRequest(
            input=[*texts("a"), clip_pb2.Item(image_url="http://127.0.0.1/a.png")]
        ),
    ),
    "an empty image": Case(
        "/v1/embeddings",
        {"input": ["a", {"image": ""}]},
        clip_pb2.EmbedRequest(input=[*texts("a"), clip_pb2.Item(image=b"")]),
    ),
    "an entry that is none": Case(
        "/v1/embeddings",
        {"input": ["a", None]},
        clip_pb2.EmbedRequest(input=[*texts("a"), clip_pb2.Item()]),
    ),
    "no labels": classification(0),
    "empty labels": Case("/v1/zero-shot", {"image": BASE64, "labels": []}, None),
    "unknown label set": classification(0, label_set="none"),
    "labels and a set": classification(0, labels=["a", "b"], label_set="shapes"),
    "templates for a set": classification(0, label_set="shapes", templates=["a {}"]),
    "no images": classification(0, images=0, labels=["a"]),
    "an empty label": classification(0, labels=["a", ""]),
    "a long label": classification(0, labels=["a", "a" * 1_001]),
    "a label that is long in its template": classification(
        0, labels=["a", LONG], templates=["{}", LONG + "{}"]
    ),
    "no place in a template": classification(0, labels=["a"], templates=["a"]),
    "unknown template set": classification(0, labels=["a"], templates="none"),
    "top_k of zero": classification(0, labels=["a"], top_k=0),
    "too many prompts": classification(
        0, labels=[f"{i}" for i in range(1_000)], templates=[f"{i} {{}}" for i in range(101)]
    ),
    "no texts": comparison(0),
    "nothing to compare": comparison(0, "a", images=0),
    "an empty text to compare": comparison(0, "a", ""),
    "too many to compare": comparison(0, *["a"] * 2_000, images=100),
    "no documents": ranking(0, "a"),
    "an empty query": ranking(0, "", "a"),
    "an empty document": ranking(0, "a", ""),
    "top_n of zero": ranking(0, "a", "b", top_n=0),
}
RIGHT = {
    "texts": embedding(3, "a", "b", "c"),
    "texts that are equal": embedding(2, "a", "a"),
    "labels": classification(3, labels=["a", "b"]),
    "labels in templates": classification(
        8, images=2, labels=["a", "b"], templates=["{}", "a {}", "the {}"]
    ),
    "labels in a template set": classification(3, labels=["a", "b"], templates="photo"),
    "a label set": classification(2, images=2, label_set="shapes"),
    "a comparison": comparison(5, "a", "b", "c", images=2),
    "a ranking": ranking(4, "a", "b", "c", "d"),
}


def counted(api: httpx.Client, keys: Keys, name: str) -> tuple[float, float]:
    """Requests that ended with this key, and items taken from its quota."""
    found = scrape(api, bearer(keys.secret("alice")))
    return value(found, "key_requests_total", key=name), value(found, "key_items_total", key=name)


@pytest.fixture(scope="module")
def spender(guarded: GatewayClient, keys: Keys) -> str:
    return known(guarded, keys, "spender", items_per_minute=1_000_000)


@pytest.mark.parametrize(
    ("protocol", "case"),
    [
        pytest.param(protocol, case, id=f"{protocol}-{what}")
        for what, case in (WRONG | RIGHT).items()
        for protocol in ("rest", "grpc")
        if protocol == "rest" or case.message is not None
    ],
)
def test_wrong_requests_spend_nothing_and_right_ones_their_items(
    guarded: GatewayClient,
    channel: grpc.Channel,
    keys: Keys,
    spender: str,
    protocol: str,
    case: Case,
) -> None:
    requests, items = counted(guarded, keys, "spender")
    if protocol == "rest":
        answer = guarded.post(case.path, json=case.body, headers=bearer(spender))
        assert answer.status_code in ({200} if case.items else {400, 404, 413}), answer.text
    else:
        send = getattr(clip_pb2_grpc.ClipServiceStub(channel), METHODS[case.path])
        answered = send.future(case.message, metadata=metadata(spender), timeout=30)
        assert answered.code().name in (
            {"OK"} if case.items else {"INVALID_ARGUMENT", "NOT_FOUND"}
        ), answered.details()
    wait_until(lambda: counted(guarded, keys, "spender")[0] > requests, "it was not counted")
    assert counted(guarded, keys, "spender")[1] - items == case.items


def test_items_that_are_skipped_are_spent_as_well(
    guarded: GatewayClient, channel: grpc.Channel, keys: Keys
) -> None:
    secret = known(guarded, keys, "skipper", items_per_minute=1_000_000)
    body = {"input": ["a", "", {"image": "no image"}], "on_error": "skip"}
    assert guarded.post("/v1/embeddings", json=body, headers=bearer(secret)).status_code == 200
    assert counted(guarded, keys, "skipper")[1] == 3
    asked = clip_pb2.EmbedRequest(input=[*texts("a", ""), clip_pb2.Item()], skip_errors=True)
    answer = clip_pb2_grpc.ClipServiceStub(channel).Embed(asked, metadata=metadata(secret))
    assert [result.WhichOneof("outcome") for result in answer.results] == [
        "embedding", "error", "error"
    ]  # fmt: skip
    wait_until(lambda: counted(guarded, keys, "skipper")[1] == 6, "three more were to be spent")


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
        assert httpx.post(f"{url}/v1/embeddings", json={}, timeout=30).status_code == 404


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
