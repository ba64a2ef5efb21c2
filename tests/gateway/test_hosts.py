"""Whom a request is for, and who had it sent: what a gateway answers, and what it refuses."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from gateway.process.serving import config
from gateway.settings import Settings
from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory, free_port
from tests.gateway.keyed import Keys, bearer

ELSEWHERE = "elsewhere.example"
BODY = b'{"input": "a red circle"}'
CROSS = {"sec-fetch-site": "cross-site"}
FOLLOWED = CROSS | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
EMBED, RELOAD = "/v1/embeddings", "/v1/admin/reload"


@pytest.fixture(scope="module")
def published(
    triton: TritonServer, start_gateway: GatewayFactory
) -> Iterator[tuple[GatewayClient, int]]:
    """A gateway that listens on every address, as in a container; and its port of metrics."""
    port = free_port()
    with start_gateway(
        triton_address=triton.addresses.grpc,
        host="0.0.0.0",  # noqa: S104
        hosts='["gateway", "*.clip.test"]',
        metrics_port=port,
        metrics_host="127.0.0.1",
    ) as client:
        yield client, port


def ask(port: int | None, head: bytes, body: bytes = b"") -> tuple[int, str]:
    """Status, and the error's code, of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port or 0), timeout=30) as raw:
        raw.sendall(head + b"\r\n\r\n" + body)
        answer = HTTPResponse(raw)
        answer.begin()
        said = answer.read()
    return answer.status, json.loads(said)["error"]["code"] if answer.status >= 400 else ""


def named(host: bytes, path: bytes = b"/livez") -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: %b" % (path, host)


def post(api: httpx.Client, path: str, headers: dict[str, str]) -> tuple[int, str]:
    response = api.post(path, content=BODY, headers=headers)
    return response.status_code, response.json().get("error", {}).get("code", "")


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LocalHost:9", b"localhost.", b"127.0.0.1", b"127.9.8.7:1", b"[::1]:8080",
     b"[0:0:0:0:0:0:0:1]", b"127.0.0.1:"],
)  # fmt: skip
def test_names_that_mean_this_machine(api: GatewayClient, host: bytes) -> None:
    assert ask(api.base_url.port, named(host)) == (200, "")


@pytest.mark.parametrize(
    "host",
    [b"elsewhere.example", b"localhost.elsewhere.example", b"127.0.0.1.elsewhere.example:80",
     b"localhost-elsewhere", b"localhost%2e", b"0.0.0.0", b"[::]", b"10.0.0.1", b"127.1", b"",
     b"2130706433", b"127.0.0.1,elsewhere.example", b"a" * 30_000],
)  # fmt: skip
def test_other_names(api: GatewayClient, host: bytes) -> None:
    assert ask(api.base_url.port, named(host)) == (421, "unknown_host")
    assert ask(api.base_url.port, named(host, b"/v1/models")) == (421, "unknown_host")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\nx: y",
        named(b"localhost") + b"\r\nhost: localhost",
        named(b"localhost") + b"\r\nHOST: elsewhere.example",
        named(b"localhost@elsewhere.example"),
        named(b"localhost/elsewhere"),
        named(b"localhost?"),
        named(b"local host"),
        named(b"localhost:8080:8080"),
        named(b"localhost:http"),
        named(b"[::1"),
        named(b"[localhost]"),
        named(b"localh\xf6st"),
        named(b"localhost", b"http://user@localhost/livez"),
        b"GET http://localhost/livez HTTP/1.1\r\nx: y",
        b"GET /livez HTTP/1.0\r\nhost: localhost\r\nhost: localhost",
    ],
    ids=repr,
)
def test_no_host_or_no_valid_one(api: GatewayClient, head: bytes) -> None:
    assert ask(api.base_url.port, head) == (400, "invalid_request")


def test_http_1_0_needs_no_host(api: GatewayClient) -> None:
    assert ask(api.base_url.port, b"GET /livez HTTP/1.0") == (200, "")


def test_the_host_of_the_target_counts(api: GatewayClient) -> None:
    port, own = api.base_url.port, b"http://localhost:1/livez?a=http://b"
    assert ask(port, named(b"elsewhere.example", own)) == (200, "")
    for target in (b"http://elsewhere.example/livez", b"HTTP://elsewhere.example/?", b"a://x/y"):
        assert ask(port, named(b"localhost", target)) == (421, "unknown_host")
    assert ask(port, named(b"localhost", b"//elsewhere.example/livez")) == (404, "not_found")
    assert ask(port, named(b"localhost", b"/http://elsewhere.example")) == (404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [CROSS, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": ""},
     {"sec-fetch-site": "same-origin, cross-site"}, FOLLOWED,
     {"origin": f"http://{ELSEWHERE}"}, {"origin": "null"}, {"origin": "http://127.0.0.1"},
     {"origin": "http://127.0.0.1:3000"}, {"origin": ""}, CROSS | {"origin": "{own}"},
     {"origin": "{own}."}, {"origin": "{own}@elsewhere.example"}],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("path", [EMBED, RELOAD])
def test_sent_by_another_origin(api: GatewayClient, path: str, headers: dict[str, str]) -> None:
    own = str(api.base_url).rstrip("/")
    headers = {name: value.replace("{own}", own) for name, value in headers.items()}
    assert post(api, path, headers) == (403, "cross_origin")


def test_several_values_count_all(api: GatewayClient) -> None:
    said = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]
    response = api.post(EMBED, content=BODY, headers=said)
    assert response.json()["error"]["code"] == "cross_origin"


@pytest.mark.parametrize(
    "headers",
    [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": "{own}"},
     {"sec-fetch-mode": "cors"}],
    ids=repr,
)  # fmt: skip
def test_sent_by_ourselves_or_by_programs(api: GatewayClient, headers: dict[str, str]) -> None:
    own = str(api.base_url).rstrip("/")
    headers = {name: value.replace("{own}", own) for name, value in headers.items()}
    assert post(api, EMBED, headers) == (200, "")


def test_links_may_be_followed_but_nothing_embedded(api: GatewayClient) -> None:
    assert api.get("/docs", headers=FOLLOWED).status_code == 200
    for dest in ("iframe", "image", "empty"):
        answer = api.get("/docs", headers=FOLLOWED | {"sec-fetch-dest": dest})
        assert answer.json()["error"]["code"] == "cross_origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "headers",
    [{"x-forwarded-for": "127.0.0.1"}, {"x-forwarded-host": "localhost"}, {"via": "1.1 proxy"},
     {"forwarded": "for=127.0.0.1"}, {"x-real-ip": "127.0.0.1"}, {"x-forwarded-proto": "http"}],
    ids=repr,
)  # fmt: skip
def test_what_a_proxy_passed_on_does_not_reload(
    api: GatewayClient, headers: dict[str, str]
) -> None:
    assert post(api, RELOAD, headers) == (404, "not_found")
    assert post(api, EMBED, headers) == (200, "")


def test_published_ports(published: tuple[GatewayClient, int]) -> None:
    api, _ = published
    for host in (b"localhost:9", b"10.1.2.3", b"[fe80::1%eth0]:1", b"gateway:8080", b"a.CLIP.test"):
        assert ask(api.base_url.port, named(host)) == (200, "")
    for host in (b"elsewhere.example", b"clip.test", b"gateway.elsewhere.example"):
        assert ask(api.base_url.port, named(host)) == (421, "unknown_host")


def test_only_names_of_this_machine_reload(published: tuple[GatewayClient, int]) -> None:
    api, _ = published
    assert post(api, RELOAD, {}) == (200, "")
    for host in ("gateway", "10.1.2.3"):
        assert post(api, RELOAD, {"host": host}) == (404, "not_found")


def test_the_port_of_metrics(published: tuple[GatewayClient, int]) -> None:
    _, port = published
    url = f"http://127.0.0.1:{port}/metrics"
    with httpx.Client(timeout=30) as client:
        assert client.get(url).status_code == 200
        assert client.get(url, headers={"host": "gateway"}).status_code == 200
        for host, status in ((ELSEWHERE, 421), ("10.1.2.3", 421), ("", 421), ("a b", 400)):
            assert client.get(url, headers={"host": host}).status_code == status


def test_with_keys_every_name_is_answered_to(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys.yaml")
    secret = keys.add("someone")
    with start_gateway(triton_address=triton.addresses.grpc, api_keys_file=keys.path) as api:
        given = bearer(secret) | {"host": ELSEWHERE}
        assert post(api, EMBED, given) == (200, "")
        assert post(api, EMBED, given | CROSS) == (403, "cross_origin")
        assert post(api, RELOAD, given) == (404, "not_found")


def test_http1_on_the_port_of_grpc(api: GatewayClient) -> None:
    host, port = api.grpc_address.split(":")
    path = b"/openclip.v1.ClipService/ListModels"
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n" % path + bytes(5))
        said = b"".join(iter(lambda: raw.recv(1000), b""))
    assert not said.startswith(b"HTTP/1.1 2")


@pytest.mark.parametrize(
    ("trusted", "seen"),
    [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.9"), (("10.0.0.1",), "127.0.0.1")],
)
async def test_proxies_are_believed_when_they_are_named(
    monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...], seen: str
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    app = FastAPI()
    app.state.tls = None

    @app.get("/")
    def peer(request: Request) -> str:
        return request.client.host if request.client else ""

    served = config(app, Settings.model_validate({"trusted_proxies": trusted}))
    served.load()
    transport = httpx.ASGITransport(served.loaded_app, client=("127.0.0.1", 9))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        response = await client.get("/", headers={"x-forwarded-for": "1.2.3.4, 203.0.113.9"})
    assert response.json() == seen
