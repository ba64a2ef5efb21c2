"""What people do on the page."""

from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from playwright.sync_api import Page

WORDS = ["red circle", "blue star", "green square"]


def choose(page: "Page", *names: str) -> None:
    page.get_by_label("Choose images").set_input_files([SAMPLES / name for name in names])


def choose_broken(page: "Page") -> None:
    page.get_by_label("Choose images").set_input_files(
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"}
    )


def write(page: "Page", words: list[str], field: str = "Labels one on each line") -> None:
    page.get_by_label(field).fill("\n".join(words))


def ask(page: "Page", button: str = "Classify") -> None:
    """Presses the button, and waits until there is an answer of any kind."""
    page.locator("#results").evaluate("each => each.setAttribute('aria-busy', 'true')")
    page.get_by_role("button", name=button, exact=True).click()
    page.locator("#results[aria-busy=false]").wait_for()


def violations(page: "Page") -> list[tuple[str, list[str]]]:
    """What axe finds wrong, with where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found: dict[str, Any] = axe.Axe().run(page).response
    assert len(found["passes"]) > 15
    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]
    ]


def best(page: "Page") -> list[str]:
    found: list[str] = page.locator("#answer .best th").all_inner_texts()
    return found
