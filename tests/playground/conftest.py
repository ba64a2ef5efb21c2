"""A real browser on the page; where there is none, the tests that need one are skipped."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_MS = 20_000
ELSEWHERE = "elsewhere.example"  # a name of somebody else's that leads to this machine
PHONE, DESKTOP = (390, 844), (1440, 900)


@dataclass
class Visit:
    """One page in a browser, and what it must not have done."""

    page: "Page"
    home: str
    complaints: list[str] = field(default_factory=list)  # of the console, and uncaught errors
    strangers: list[str] = field(default_factory=list)  # addresses of other origins

    def watch(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _said(self, message: "ConsoleMessage") -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _asked(self, request: "Request") -> None:
        if not request.url.startswith((self.home, "data:", f"blob:{self.home}")):
            self.strangers.append(request.url)


Visitor = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip("no Chromium on PATH; install it, or name it in the variable CHROMIUM")
    playwright.expect.set_options(timeout=WAIT_MS)
    with playwright.sync_playwright() as driver:
        # As root, as in a container, Chromium starts without its sandbox only.
        arguments = ["--no-sandbox", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"]
        launched = driver.chromium.launch(executable_path=program, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Visitor]:
    """Open the page of a gateway, ready; at the end it must have kept quiet and to itself."""
    visits: list[tuple[Visit, bool]] = []

    def open_page(
        api: httpx.Client, size: tuple[int, int] = DESKTOP, *, failing: bool = False, **options: Any
    ) -> Visit:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            **({"reduced_motion": "reduce"} | options),
        )
        context.set_default_timeout(WAIT_MS)
        visit = Visit(context.new_page(), str(api.base_url).rstrip("/") + "/")
        visit.watch()
        visits.append((visit, failing))
        visit.page.goto(visit.home)
        return visit

    yield open_page
    for visit, failing in visits:
        visit.page.context.close()
        assert visit.strangers == []
        # Chromium itself reports every answer that is an error.
        own = [each for each in visit.complaints if "Failed to load resource" not in each]
        assert (own if failing else visit.complaints) == []
