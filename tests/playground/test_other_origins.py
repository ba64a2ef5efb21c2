"""What pages of other origins, and of a name that was rebound, reach of a gateway without keys."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from server.launcher import TritonServer
from tests.conftest import GatewayClient, GatewayFactory
from tests.httpserver import Handler, web_server
from tests.playground.conftest import ELSEWHERE, WAIT_MS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EMBED, RELOAD, MODELS = "/v1/embeddings", "/v1/admin/reload", "/v1/models"
PAGE = """<!doctype html><title>another origin</title><link rel="icon" href="data:,">
<a href="{home}/">the playground</a>
<form method="post" enctype="text/plain"><input type="hidden"></form>"""
# As text/plain has it, NAME=VALUE: together they are JSON.
FORM = """([url, name, value]) => {
    const form = document.forms[0];
    form.action = url;
    Object.assign(form.elements[0], { name, value });
    form.submit();
}"""
FETCH = """async ([url, options]) => {
    try {
        return (await fetch(url, options)).status;
    } catch (error) {
        return error.name;
    }
}"""
READ = """async ([url, options]) => {
    const answer = await fetch(url, options);
    return [answer.status, Object.fromEntries(answer.headers), await answer.json()];
}"""
TEXT = '{"input": "a text of another origin"}'
PLAIN: dict[str, object] = {"method": "POST", "body": TEXT}
JSON: dict[str, object] = PLAIN | {"headers": {"content-type": "application/json"}}


@pytest.fixture(scope="module")
def elsewhere(api: GatewayClient) -> Iterator[int]:
    """The port of another origin's server; what is below `/v1` of it is the gateway's.

    So it is for a browser once the origin's name was rebound: same origin, another machine.
    """
    gateway = api.base_url.port

    class Elsewhere(Handler):
        def do_GET(self) -> None:
            if self.path.startswith("/v1"):
                self.do_POST()
                return
            host = self.headers["host"].partition(":")[0]
            home = f"http://{'127.0.0.1' if host == ELSEWHERE else host}:{gateway}"
            self.answer(PAGE.format(home=home).encode(), content_type="text/html")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            connection = HTTPConnection("127.0.0.1", gateway, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            self.answer(answer.read(), answer.status)
            connection.close()

    with web_server(Elsewhere) as port:
        yield port


@pytest.fixture(scope="module")
def listing(
    triton: TritonServer, start_gateway: GatewayFactory, elsewhere: int
) -> Iterator[GatewayClient]:
    """A gateway whose API that origin may use, under its foreign name."""
    origins = json.dumps([f"http://{ELSEWHERE}:{elsewhere}"])
    with start_gateway(triton_address=triton.addresses.grpc, cors_origins=origins) as client:
        assert client.get("/readyz").status_code == 200
        yield client


@pytest.fixture
def page(browser: "Browser") -> Iterator["Page"]:
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    yield context.new_page()
    context.close()


def done(api: GatewayClient) -> list[str]:
    """What was embedded, reloaded or listed so far, as the gateway counts it."""
    wanted = ("openclip_items_total", "openclip_requests_total")
    return [
        line
        for line in api.get("/metrics").text.splitlines()
        if line.startswith(wanted)
        and 'operation="/metrics"' not in line
        and 'operation="preflight"' not in line
        and ('code="200"' in line or line.startswith(wanted[0]))
    ]


@pytest.mark.parametrize("host", [ELSEWHERE, "localhost"], ids=["cross-site", "same-site"])
def test_another_origin(api: GatewayClient, page: "Page", elsewhere: int, host: str) -> None:
    theirs = f"http://{host}:{elsewhere}/"
    ours = f"http://{'127.0.0.1' if host == ELSEWHERE else host}:{api.base_url.port}"
    page.goto(theirs)
    before = done(api)
    for path, options in ((EMBED, PLAIN), (EMBED, JSON), (RELOAD, PLAIN), (MODELS, {})):
        for mode in ("cors", "no-cors"):
            assert page.evaluate(FETCH, [ours + path, options | {"mode": mode}]) == "TypeError"
    rpc = f"http://{api.grpc_address}/openclip.v1.ClipService/ListModels"
    message = {"method": "POST", "body": "\0" * 5, "mode": "no-cors"}
    assert page.evaluate(FETCH, [rpc, message]) == "TypeError"
    statuses = []
    for path in (EMBED, RELOAD):
        page.goto(theirs)
        with page.expect_navigation() as navigation:
            page.evaluate(FORM, [ours + path, '{"input": "a text", "user": "', '"}'])
        statuses.append(navigation.value.status)
    assert done(api) == before
    assert statuses == [403, 403]


def test_an_origin_that_is_listed(listing: GatewayClient, page: "Page", elsewhere: int) -> None:
    theirs, ours = f"http://{ELSEWHERE}:{elsewhere}/", f"http://127.0.0.1:{listing.base_url.port}"
    page.goto(theirs)
    own_header = {"content-type": "application/json", "x-stainless-lang": "js"}
    for options in (PLAIN, JSON, PLAIN | {"headers": own_header}):
        status, headers, answer = page.evaluate(READ, [ours + EMBED, options])
        assert status == 200
        assert len(answer["data"]) == 1
        assert headers.keys() >= {"x-request-id", "x-model-fingerprint", "server-timing"}
    status, _, answer = page.evaluate(READ, [ours + EMBED, PLAIN | {"body": "{"}])
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert page.evaluate(READ, [ours + MODELS, {}])[0] == 200


@pytest.mark.parametrize("host", [ELSEWHERE, "localhost"], ids=["listed", "not listed"])
def test_what_listing_does_not_open(
    listing: GatewayClient, page: "Page", elsewhere: int, host: str
) -> None:
    theirs, ours = f"http://{host}:{elsewhere}/", f"http://127.0.0.1:{listing.base_url.port}"
    page.goto(theirs)
    before = done(listing)
    asked = [
        (RELOAD, PLAIN), (RELOAD, JSON), (RELOAD, PLAIN | {"mode": "no-cors"}),
        ("/metrics", {}), ("/openapi.json", {}), (EMBED, PLAIN | {"mode": "no-cors"}),
        (EMBED, JSON | {"credentials": "include"}),
    ]  # fmt: skip
    if host != ELSEWHERE:
        asked += [(EMBED, PLAIN), (EMBED, JSON), (MODELS, {})]
    for path, options in asked:
        assert page.evaluate(FETCH, [ours + path, options]) == "TypeError"
    for path in (EMBED, RELOAD):
        page.goto(theirs)
        with page.expect_navigation() as navigation:
            page.evaluate(FORM, [ours + path, '{"input": "a text", "user": "', '"}'])
        assert navigation.value.status == 403
    assert done(listing) == before


def test_a_name_that_was_rebound(api: GatewayClient, page: "Page", elsewhere: int) -> None:
    page.goto(f"http://{ELSEWHERE}:{elsewhere}/")
    before = done(api)
    posted = [(EMBED, PLAIN), (EMBED, JSON), (RELOAD, PLAIN)]
    asked = [*posted, (MODELS, {})]
    statuses = [page.evaluate(FETCH, [path, options]) for path, options in asked]
    assert done(api) == before
    assert statuses == [421] * len(asked)


@pytest.mark.parametrize("host", [ELSEWHERE, "localhost"], ids=["cross-site", "same-site"])
def test_a_link_to_the_playground(
    api: GatewayClient, page: "Page", elsewhere: int, host: str
) -> None:
    page.goto(f"http://{host}:{elsewhere}/")
    page.get_by_text("the playground").click()
    page.get_by_text("Ready", exact=True).wait_for()
