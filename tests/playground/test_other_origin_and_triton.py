"""A page of another origin reaches nothing of the Triton that `make run` starts."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.test_stack import banner, found, stack
from tests.gateway.proc import children
from tests.gateway.waiting import wait_until
from tests.httpserver import Handler, web_server
from tests.server.test_secret import PLANT, PYTHON, listening

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = """<!doctype html><title>elsewhere</title>
<form method="post" enctype="text/plain" target="frame"><input name="given"></form>
<iframe name="frame"></iframe>"""
# A form sends "name=value": within a string of the JSON, the "=" does no harm.
FORM = """([url, body]) => {
    const form = document.forms[0];
    form.action = url;
    form.given.name = '{"ignored":"';
    form.given.value = '",' + body.slice(1);
    form.submit();
}"""
FETCH = """([url, body]) => Promise.allSettled([
    fetch(url, {method: "POST", mode: "no-cors", body}),
    fetch(url, {method: "POST", mode: "cors", body}),
    fetch(url, {method: "POST", mode: "cors", body, headers: {"content-type": "application/json"}}),
]).then((ended) => ended.map(({status, value}) => value ? value.type : status))"""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Where a page of another origin is."""

    class Page(Handler):
        def do_GET(self) -> None:
            self.answer(PAGE.encode(), content_type="text/html")

    with web_server(Page) as port:
        yield f"http://localhost:{port}/"


@pytest.mark.parametrize("options", [(), ("--triton-http-port=0",)], ids=["closed", "opened"])
def test_no_page_of_another_origin_runs_code_through_triton(
    browser: "Browser", elsewhere: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    marker = tmp_path / "it ran"
    code = base64.b64encode(PLANT.format(marker=str(marker)).encode()).decode()
    body = json.dumps({"parameters": {"config": json.dumps(PYTHON), "file:1/model.py": code}})
    with stack(*options) as process:
        banner(process)
        [triton] = children(found(process, "-m", "server.guard"))
        ports = listening(triton)
        assert len(ports) == 2 + len(options)
        context = browser.new_context()
        page = context.new_page()
        page.goto(elsewhere)
        ended: list[str] = []
        page.on("requestfinished", lambda request: ended.append(request.url))
        page.on("requestfailed", lambda request: ended.append(request.url))
        urls = [f"http://127.0.0.1:{port}/v2/repository/models/planted/load" for port in ports]
        for url in urls:
            # It may send, where there is a server of HTTP at all; it may read nothing.
            assert set(page.evaluate(FETCH, [url, body])) <= {"opaque", "rejected"}
            page.evaluate(FORM, [f"{url}?by=form", body])

            def ended_too(sent: str = f"{url}?by=form") -> bool:
                page.wait_for_timeout(50)
                return sent in ended

            wait_until(ended_too)  # the frame's next request would take its place
        context.close()
        assert not marker.exists()
