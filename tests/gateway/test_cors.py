"""CORS: the headers in answers, and what pages of listed and of other origins reach."""

from collections.abc import Iterator

import httpx
import pytest

from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory
from tests.gateway.keyed import Keys, bearer
from tests.gateway.scraping import scrape, value

EMBED, MODELS, RELOAD = "/v1/embeddings", "/v1/models", "/v1/admin/reload"
LISTED = "https://app.example"
SCRIPT = {"origin": LISTED, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
ASKED = SCRIPT | {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    "access-control-request-private-network": "true",
}
TEXT = {"input": "a red circle"}
ALLOWED = "access-control-allow-origin"


@pytest.fixture(scope="module")
def api(
    triton: TritonServer, start_gateway: GatewayFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayClient]:
    """A gateway with keys that lists an origin; its client sends a key."""
    keys = Keys(tmp_path_factory.mktemp("keys") / "keys.yaml")
    key = bearer(keys.add("someone"))
    with start_gateway(
        triton_address=triton.addresses.grpc,
        api_keys_file=keys.path,
        cors_origins=f'["{LISTED}", "http://localhost:3000"]',
    ) as client:
        client.headers.update(key)
        yield client


def told(response: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in response.headers.items() if k.startswith("access-control-")}


def test_a_listed_page_is_answered(api: GatewayClient) -> None:
    answer = api.post(EMBED, json=TEXT, headers=SCRIPT)
    assert answer.status_code == 200
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert told(answer).keys() == {ALLOWED, "access-control-expose-headers"}  # and no credentials
    assert answer.headers[ALLOWED] == LISTED
    assert {"x-request-id", "x-model-fingerprint", "server-timing", "retry-after"} <= exposed
    assert answer.headers["vary"] == "Origin"
    assert answer.headers["cache-control"] == "no-store"
    assert api.get(MODELS, headers=SCRIPT).headers[ALLOWED] == LISTED
    assert api.get(f"{MODELS}/demo", headers=SCRIPT).headers[ALLOWED] == LISTED


def test_it_may_read_its_errors(api: GatewayClient) -> None:
    nobody = {"authorization": "Bearer nobody"}
    for headers, status in ((SCRIPT | nobody, 401), (SCRIPT, 400)):
        answer = api.post(EMBED, content=b"{", headers=headers)
        assert answer.status_code == status
        assert answer.headers[ALLOWED] == LISTED
        assert answer.json()["error"]


def test_a_preflight_needs_no_key(api: GatewayClient) -> None:
    count = preflights(api)
    answer = httpx.options(f"{api.base_url}{EMBED}", headers=ASKED, timeout=60)
    assert answer.status_code == 200
    assert (
        told(answer).items()
        == {
            ALLOWED: LISTED,
            "access-control-allow-methods": "GET, HEAD, POST",
            "access-control-allow-headers": ASKED["access-control-request-headers"],
            "access-control-allow-private-network": "true",
            "access-control-max-age": "600",
        }.items()
    )
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert preflights(api) == count + 1


def preflights(api: GatewayClient) -> float:
    return value(scrape(api), "requests_total", operation="preflight", code="200", model="")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://app.example.evil"}, {"origin": "http://app.example"},
        {"origin": "https://app.example:8443"}, {"origin": "null"}, {"origin": ""},
        {"origin": "https://APP.example"}, {"origin": f"{LISTED}, {LISTED}"},
        {"origin": f"{LISTED}/"}, {"origin": "http://localhost:3001"},
        # Forms and elements of a listed page.
        {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, {"sec-fetch-mode": "no-cors"},
        {"sec-fetch-mode": "websocket"},
    ],
    ids=repr,
)  # fmt: skip
def test_others_are_refused(api: GatewayClient, headers: dict[str, str]) -> None:
    for answer in (
        api.post(EMBED, json=TEXT, headers=SCRIPT | headers),
        api.options(EMBED, headers=ASKED | headers),
    ):
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "cross_origin"
        assert told(answer) == {}


def test_two_origins_are_none(api: GatewayClient) -> None:
    doubled = [("origin", LISTED), ("origin", LISTED)]
    assert api.post(EMBED, json=TEXT, headers=doubled).status_code == 403


@pytest.mark.parametrize(
    "path",
    [RELOAD, "/metrics", "/playground.json", "/", "/docs", "/openapi.json", "/livez", "/nothing",
     "/v1/admin", "/v1/embeddings/", "//v1/models"],
)  # fmt: skip
def test_nothing_but_the_api_is_listed_pages(api: GatewayClient, path: str) -> None:
    url = str(api.base_url).rstrip("/") + path
    for method, headers in (("GET", SCRIPT), ("POST", SCRIPT), ("OPTIONS", ASKED)):
        answer = api.request(method, url, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "cross_origin"
        assert told(answer) == {}


def test_programs_notice_nothing(api: GatewayClient) -> None:
    answer = api.post(EMBED, json=TEXT)
    assert answer.status_code == 200
    assert told(answer) == {}
    assert api.options(EMBED).status_code == 405
    assert api.post(RELOAD).status_code == 200
