"""What the page says when something is wrong, in Chromium."""

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import GatewayClient, GatewayFactory
from tests.gateway.waiting import unfinished_request
from tests.playground.actions import WORDS, ask, best, choose, choose_broken, violations, write
from tests.playground.conftest import Visitor

expect = pytest.importorskip("playwright.sync_api").expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from server.launcher import TritonServer

KEY = "a-key-that-nobody-may-see"


def assert_told(page: "Page", title: str, *said: str) -> None:
    alert = page.get_by_role("alert").filter(has_text=title)
    expect(alert.get_by_role("heading", name=title)).to_be_visible()
    for each in said:
        expect(alert).to_contain_text(each)


def test_what_is_missing_is_said_before_anything_is_sent(
    api: GatewayClient, visit: Visitor
) -> None:
    page = visit(api).page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    button = page.get_by_role("button", name="Classify", exact=True)
    button.click()
    expect(page.locator("#images-error")).to_have_text("Choose an image first, or draw samples.")
    expect(page.locator("#labels-error")).to_have_text("Write at least one label.")
    expect(page.get_by_label("Labels one on each line")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Choose images")).to_be_focused()
    choose(page, "red-circle.png")
    button.click()
    expect(page.get_by_label("Labels one on each line")).to_be_focused()
    write(page, WORDS)
    expect(page.locator("#labels-error")).to_be_hidden()
    assert not [url for url in asked if "/v1/zero-shot" in url]
    ask(page)
    assert best(page) == ["red circle"]


def test_a_broken_image_is_named_and_marked(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api, failing=True).page
    choose(page, "red-circle.png")
    choose_broken(page)
    write(page, WORDS)
    ask(page)
    assert_told(page, "The service did not take this", "broken.png", "images[1]", "400")
    expect(page.locator("#tray .bad .name")).to_have_text("broken.png")
    page.get_by_role("button", name="Remove broken.png").click()
    expect(page.get_by_role("button", name="Remove red-circle.png")).to_be_focused()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#answer .best th")).to_have_text("red circle")
    expect(page.get_by_role("button", name="Classify", exact=True)).to_be_focused()
    expect(page.locator("#failure")).to_be_empty()


def test_limits_and_a_busy_service(
    triton: "TritonServer", start_gateway: GatewayFactory, visit: Visitor
) -> None:
    limits = {"max_labels": 2, "max_items": 2, "max_inflight_bytes": 1}
    with start_gateway(triton_address=triton.addresses.grpc, **limits) as api:
        page = visit(api, failing=True).page
        choose(page, "yellow-heart.jpg")
        write(page, WORDS)
        ask(page)
        assert_told(page, "Too much at once", "413", "labels")
        write(page, WORDS[:2])
        with unfinished_request(api), page.expect_response("**/v1/zero-shot") as refused:
            ask(page)
        wait = refused.value.headers["retry-after"]
        assert_told(page, "The service is busy", "429", f"Try again in {wait} s")
        choose(page, "red-circle.png", "green-square.png")
        expect(page.locator("#images-error")).to_have_text(
            "The service takes 2 images at a time; remove some."
        )
        page.get_by_role("button", name="Remove all").click()
        expect(page.locator("#images-error")).to_be_hidden()
        page.context.close()


def test_no_triton_and_then_no_gateway(start_gateway: GatewayFactory, visit: Visitor) -> None:
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(start_gateway(triton_address="127.0.0.1:9"))
        page = visit(api, failing=True).page
        expect(page.locator("#health")).to_have_text("Not ready")
        choose(page, "red-circle.png")
        write(page, WORDS)
        ask(page)
        assert_told(page, "The service is not ready", "503")
        stack.pop_all().close()
        ask(page)
        assert_told(page, "The service cannot be reached", "Nothing that you entered is lost")
        expect(page.locator("#health")).to_have_text("Cannot be reached")
        expect(page.get_by_label("Labels one on each line")).to_have_value("\n".join(WORDS))


def test_a_key_is_asked_for_sent_and_shown_nowhere(
    triton: "TritonServer", start_gateway: GatewayFactory, visit: Visitor, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.yaml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys.write_text(f"keys: [{{name: somebody, sha256: {digest}}}]\n")
    with start_gateway(triton_address=triton.addresses.grpc, api_keys_file=keys) as api:
        assert api.get("/playground.json").status_code == 401  # label sets may be nobody's business
        page = visit(api, failing=True).page
        assert_told(page, "The API key is missing or wrong", "an API key is needed")
        expect(page.locator("#health")).to_have_text("An API key is needed")
        expect(page.locator("#health")).to_have_attribute("data-state", "locked")
        for select in ("Served model", "Templates"):
            told = page.get_by_label(select, exact=True).locator("option")
            expect(told).to_have_text("an API key is needed")
        field = page.get_by_label("Sent as a bearer token")
        expect(field).to_be_focused()
        expect(field).to_be_in_viewport()
        assert violations(page) == []
        page.get_by_label("Labels one on each line").focus()
        page.get_by_role("button", name="Enter a key").click()
        expect(field).to_be_focused()
        field.fill(KEY)
        field.press("Tab")
        expect(page.locator("#failure")).to_be_empty()
        expect(page.get_by_role("button", name="Classify three of them")).to_be_visible()
        expect(page.get_by_label("Served model")).to_have_value("demo")
        expect(page.locator("#health")).to_have_text("Ready")
        expect(page.locator("#health")).to_have_attribute("data-state", "good")
        expect(page.get_by_label("Templates", exact=True)).to_have_value("photo")
        page.get_by_text("Model card").click()
        expect(page.locator("#card")).to_contain_text("# demo")
        choose(page, "red-circle.png")
        write(page, WORDS)
        ask(page)
        assert best(page) == ["red circle"]
        for name in ("curl", "Python"):
            code = page.get_by_role("region", name=f"{name} code").inner_text()
            assert "OPENCLIP_API_KEY" in code
        assert KEY not in page.content()
        assert KEY not in page.url
        kept = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }])")
        assert kept == "[{},{}]"
        assert page.context.cookies() == []
        page.context.close()


def test_a_slow_request_can_be_cancelled(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api, failing=True).page
    page.route("**/v1/zero-shot", lambda route: None)  # never answered
    page.get_by_role("button", name="Classify three of them").click()
    expect(page.get_by_text("Waiting for the answer…")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Nothing asked yet")).to_be_visible()
    expect(page.get_by_role("button", name="Classify", exact=True)).to_be_focused()
    page.unroute_all()
    ask(page)
    assert best(page) == WORDS
