"""The page in Chromium, against the real service."""

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES, GatewayClient, GatewayFactory
from tests.items import RED_CIRCLE, b64
from tests.playground.actions import WORDS, ask, best, choose, write
from tests.playground.conftest import DESKTOP, PHONE, Visitor

expect = pytest.importorskip("playwright.sync_api").expect

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Route

    from server.launcher import TritonServer

SIZES = pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["390", "1440"])
DROP = """([base64, kind]) => {
    const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "brought.png", { type: "image/png" }));
    document.body.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
        : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@SIZES
def test_drawings_are_classified_at_a_click(
    api: GatewayClient, visit: Visitor, size: tuple[int, int]
) -> None:
    page = visit(api, size).page
    page.get_by_role("button", name="Classify three of them").click()
    expect(page.get_by_role("heading", name="What the images show")).to_be_in_viewport()
    assert best(page) == WORDS
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_every_drawing_is_what_it_is_called(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api).page
    drawings = page.get_by_role("list", name="Or begin with a drawing").get_by_role("button")
    expect(drawings).to_have_count(6)
    for chosen in (3, 6):
        page.get_by_role("button", name="Draw samples").click()
        expect(page.locator("#tray li")).to_have_count(chosen)
    drawings.first.click()
    expect(page.locator("#answer article")).to_have_count(7)
    assert best(page) == [*WORDS, "yellow heart", "purple triangle", "orange cross", "red circle"]


@SIZES
def test_ones_own_images_and_labels(
    api: GatewayClient, visit: Visitor, size: tuple[int, int]
) -> None:
    page = visit(api, size).page
    choose(page, "red-circle.png", "blue-star.jpg")
    write(page, ["", *WORDS, " red circle "])
    expect(page.locator("#labels-count")).to_have_text("3 labels")
    page.get_by_label("Templates", exact=True).select_option("general")
    page.get_by_label("Labels to show").fill("2")
    ask(page)
    assert best(page) == ["red circle", "blue star"]
    rows = page.get_by_role("table", name="Labels of red-circle.png").locator("tbody tr")
    expect(rows).to_have_count(2)
    body = {"labels": WORDS, "templates": "general", "image": b64(RED_CIRCLE)}
    top = api.post("/v1/zero-shot", json=body).json()["results"][0]["predictions"][0]
    shown = [f"{top['score'] * 100:.2f}\u00a0%", f"{top['cosine']:.3f}"]
    assert rows.first.locator("td").all_inner_texts() == shown
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_images_can_be_dropped_and_pasted(api: GatewayClient, visit: Visitor, kind: str) -> None:
    page = visit(api).page
    if kind == "drop":
        page.evaluate(DROP, [b64(RED_CIRCLE), "dragover"])
        expect(page.locator("#veil")).to_be_visible()
    page.evaluate(DROP, [b64(RED_CIRCLE), kind])
    expect(page.locator("#veil")).to_be_hidden()
    expect(page.locator("#tray li")).to_have_count(1)
    write(page, WORDS)
    ask(page)
    assert best(page) == ["red circle"]


@SIZES
def test_texts_find_their_images(api: GatewayClient, visit: Visitor, size: tuple[int, int]) -> None:
    page = visit(api, size).page
    page.get_by_label("Compare texts").check()
    choose(page, "red-circle.png", "blue-star.jpg", "green-square.png")
    write(page, [f"a photo of a {each}" for each in WORDS[::-1]], "Texts one on each line")
    ask(page, "Compare")
    cells = page.locator("#answer .matrix tbody tr").nth(0).locator("td")
    assert ["best" in (cells.nth(at).get_attribute("class") or "") for at in range(3)] == [
        False, False, True,
    ]  # fmt: skip
    page.get_by_label("Images by text").check()
    found = page.locator("#answer .found li:first-child .name")
    assert found.all_inner_texts() == ["green-square.png", "blue-star.jpg", "red-circle.png"]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_label_sets_and_own_templates(
    triton: "TritonServer", start_gateway: GatewayFactory, visit: Visitor, tmp_path: "Path"
) -> None:
    (tmp_path / "shapes.yaml").write_text(
        "name: shapes\nlabels: [red circle, blue star]\ntemplates: photo\n"
    )
    with start_gateway(triton_address=triton.addresses.grpc, label_sets=tmp_path) as api:
        page = visit(api, failing=True).page
        choose(page, "red-circle.png")
        write(page, ["green square", "red circle"])
        page.get_by_label("Templates", exact=True).select_option("")
        page.get_by_label("Own templates").fill("a drawing of a {}\nno place for the label")
        ask(page)
        expect(page.get_by_role("alert").filter(has_text="templates")).to_be_visible()
        page.get_by_label("Own templates").fill("a drawing of a {}")
        ask(page)
        assert best(page) == ["red circle"]
        page.get_by_label("Labels from").select_option("shapes")
        expect(page.get_by_label("Labels one on each line")).to_be_hidden()
        ask(page)
        assert page.locator("#answer tbody th").all_inner_texts() == ["red circle", "blue star"]
        page.context.close()


def test_the_chosen_model_is_asked(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api, failing=True).page

    def two_models(route: "Route") -> None:
        listed = api.get("/v1/models").json()
        other = {"id": "another", "default": False, "card": None}
        listed["data"].insert(0, listed["data"][0] | other)
        route.fulfill(json=listed)

    page.route("**/v1/models", two_models)
    page.reload()
    expect(page.get_by_label("Served model")).to_have_value("demo")  # the default
    expect(page.get_by_text("Model card")).to_be_visible()
    page.get_by_label("Served model").select_option("another")
    expect(page.get_by_text("Model card")).to_be_hidden()
    choose(page, "red-circle.png")
    write(page, WORDS)
    with page.expect_request("**/v1/zero-shot") as sent:
        ask(page)
    assert json.loads(sent.value.post_data or "")["model"] == "another"
    expect(page.get_by_role("alert").filter(has_text="another")).to_be_visible()


def test_the_code_does_what_the_page_did(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api, permissions=["clipboard-read", "clipboard-write"]).page
    choose(page, "red-circle.png", "blue-star.jpg")
    labels = [*WORDS, 'it\'s "$HOME" `id` \\n €']
    write(page, labels)
    ask(page)
    shown = [
        page.get_by_role("region", name=f"{name} code").inner_text() for name in ("curl", "Python")
    ]
    page.get_by_role("button", name="Copy curl").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == shown[0]
    for command in (["bash", "-c", shown[0]], [sys.executable, "-c", shown[1]]):
        ran = subprocess.run(
            command, cwd=SAMPLES, capture_output=True, text=True, timeout=60, check=True
        )
        answer = json.loads(ran.stdout) if command[0] == "bash" else eval(ran.stdout)  # noqa: S307
        tops = [each["predictions"] for each in answer["results"]]
        assert [top[0]["label"] for top in tops] == ["red circle", "blue star"]
        assert {each["label"] for each in tops[0]} == set(labels)


def test_where_the_time_went(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api).page
    choose(page, "red-circle.png")
    write(page, WORDS)
    with page.expect_response("**/v1/zero-shot") as came:
        ask(page)
    header = came.value.headers["server-timing"]
    names = [each.strip().partition(";")[0] for each in header.split(",")]
    rows = page.get_by_role("table", name="Milliseconds by stage").locator("tbody tr")
    told = [each.split("\n")[0] for each in rows.locator("th").all_inner_texts()]
    order = ["decode", "tokenize", "queue", "infer", "encode"]  # as a request passes them
    assert told == [*(each for each in order if each in names), "round trip"]
    assert set(names) <= set(order)
    assert came.value.headers["x-request-id"] in page.locator("#timing").inner_text()


def test_a_cut_text_is_told(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api).page
    choose(page, "red-circle.png")
    write(page, ["red circle", "very " * 200 + "blue star"])
    ask(page)
    expect(page.get_by_text("its end was left out")).to_be_visible()
