"""The page for those who use no mouse, a screen reader, a dark scheme, or less motion."""

import pytest

from tests.conftest import GatewayClient
from tests.playground.actions import WORDS, ask, best, choose, choose_broken, violations, write
from tests.playground.conftest import DESKTOP, PHONE, Visitor

expect = pytest.importorskip("playwright.sync_api").expect

FOCUSED = """(({ id, value, type, textContent }) => (
    id || (type === "radio" ? value : textContent.trim())))(document.activeElement)"""
CONTRAST = """(selectors) => {
    const luminance = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255);
        const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = parts.map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
    };
    return selectors.map((selector) => {
        const element = document.querySelector(selector);
        const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance);
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["390", "1440"])
def test_axe_finds_nothing(
    api: GatewayClient, visit: Visitor, size: tuple[int, int], scheme: str
) -> None:
    page = visit(api, size, failing=True, color_scheme=scheme).page
    expect(page.locator("#gallery img")).to_have_count(6)
    expect(page.locator("#health")).to_have_text("Ready")
    assert violations(page) == []
    ask(page, "Classify three of them")
    page.get_by_text("About this model").click()
    page.get_by_text("Model card").click()
    expect(page.locator("#card")).to_contain_text("Fingerprint")
    page.get_by_text("API key", exact=True).click()
    assert violations(page) == []
    page.get_by_label("Compare texts").check()
    ask(page, "Compare")
    assert violations(page) == []
    page.get_by_label("Images by text").check()
    assert violations(page) == []
    choose_broken(page)
    ask(page, "Compare")
    expect(page.locator("#failure h2")).to_be_visible()
    write(page, [], "Texts one on each line")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#texts-error")).not_to_be_empty()
    assert violations(page) == []


def test_the_dark_scheme_is_dark_and_can_be_read(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api, color_scheme="dark").page
    ask(page, "Classify three of them")
    red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert int(red) < 40
    texts = ["#answer h2", "#answer .hint", "#answer td:last-child", "#answer .best td", "pre code",
             "#run", "#samples", ".times .hint", "nav a", ".modes input + span"]  # fmt: skip
    ratios = page.evaluate(CONTRAST, texts)
    assert {text: ratio for text, ratio in zip(texts, ratios, strict=True) if ratio < 4.5} == {}


def test_by_keyboard_alone(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api).page
    expect(page.get_by_label("Served model")).to_be_enabled()
    expect(page.locator("#gallery img")).to_have_count(6)
    keys = page.keyboard

    def tab_to(name: str) -> list[str]:
        passed: list[str] = []
        while not passed or passed[-1] != name:
            keys.press("Tab")
            passed.append(page.evaluate(FOCUSED))
            assert len(passed) < 40, passed
        return passed

    assert tab_to("files") == ["Skip to the results", "API reference", "files"]
    assert tab_to("samples") == ["samples"]
    keys.press("Enter")
    expect(page.locator("#tray li")).to_have_count(3)
    passed = tab_to("labels")
    assert passed.count("Save") == 3
    assert passed[-3:] == ["clear", "classify", "labels"]
    keys.press("Control+a")
    keys.type("\n".join(WORDS))
    keys.press("Control+Enter")
    expect(page.locator("#said")).to_contain_text("Done. red-circle.png: red circle")
    assert best(page) == WORDS
    opened = ["About this model", "Model card", "API key"]
    assert tab_to("run") == ["template-set", "top-k", "model", *opened, "run"]
    keys.press("Shift+Tab")
    keys.press("Enter")
    keys.press("Tab")
    assert page.evaluate(FOCUSED) == "key"
    keys.press("Tab")
    keys.press("Enter")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    assert tab_to("Copy curl") == ["Copy curl"]
    page.get_by_label("Classify", exact=True).focus()
    keys.press("ArrowRight")
    expect(page.get_by_label("Texts one on each line")).to_be_visible()
    assert tab_to("texts") == ["texts"]


def test_ctrl_enter_asks_wherever_the_focus_is(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api).page
    expect(page.get_by_label("Served model")).to_be_enabled()
    choose(page, "red-circle.png")
    write(page, WORDS)
    page.evaluate("document.activeElement.blur()")
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#said")).to_contain_text("Done. red-circle.png: red circle")


def test_the_way_past_the_form(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api).page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the results")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Results")).to_be_focused()


def test_what_holds_the_focus_can_be_seen_on_a_phone(api: GatewayClient, visit: Visitor) -> None:
    page = visit(api, PHONE).page
    expect(page.locator("#gallery img")).to_have_count(6)
    bar = page.locator(".go")
    for _ in range(14):
        page.keyboard.press("Tab")
        hidden = bar.evaluate(
            """(bar) => {
                const [focused, over] = [document.activeElement, bar.getBoundingClientRect()];
                const { top, bottom } = focused.getBoundingClientRect();
                return !bar.contains(focused) && top >= over.top && bottom <= over.bottom;
            }"""
        )
        assert not hidden, page.evaluate(FOCUSED)


def test_less_motion(api: GatewayClient, visit: Visitor) -> None:
    moving = "getComputedStyle(document.querySelector('#answer .fill')).animationName"
    for motion, name in (("no-preference", "grow"), ("reduce", "none")):
        page = visit(api, reduced_motion=motion).page
        choose(page, "red-circle.png")
        write(page, WORDS)
        ask(page)
        assert page.evaluate(moving) == name


def test_a_window_of_320_pixels_needs_no_sideways_scrolling(
    api: GatewayClient, visit: Visitor
) -> None:
    page = visit(api, (320, 640)).page
    ask(page, "Classify three of them")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
