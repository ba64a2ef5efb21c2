"""What people do on the page."""

import base64
from typing import TYPE_CHECKING

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


def best(page: "Page") -> list[str]:
    found: list[str] = page.locator("#answer .best th").all_inner_texts()
    return found


def encoded(name: str) -> str:
    return base64.b64encode((SAMPLES / name).read_bytes()).decode()
