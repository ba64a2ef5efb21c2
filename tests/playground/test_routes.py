"""The page as it is sent, without a browser."""

import re
from pathlib import Path

import httpx
import pytest

from gateway.rest.playground.routes import FOLDER
from tests.conftest import GatewayFactory

NAMES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.*"))
MEDIA_TYPES = {
    ".html": {"text/html; charset=utf-8"},
    ".css": {"text/css; charset=utf-8"},
    ".js": {"text/javascript; charset=utf-8", "application/javascript"},  # as the system says
    ".svg": {"image/svg+xml"},
}


def test_the_page(api: httpx.Client) -> None:
    response = api.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_sent_as_what_it_is(api: httpx.Client, name: str) -> None:
    response = api.get(f"/playground/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"] in MEDIA_TYPES[Path(name).suffix]
    assert response.content == (FOLDER / name).read_bytes()


def test_a_browser_keeps_a_file_until_it_changes(api: httpx.Client) -> None:
    first = api.get("/playground/main.js")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = api.get("/playground/main.js", headers={"if-none-match": known})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == first.headers["etag"]
    assert api.get("/playground/main.js", headers={"if-none-match": '"other"'}).content
    assert first.headers["etag"] != api.get("/playground/dom.js").headers["etag"]


def test_head(api: httpx.Client) -> None:
    for path in ("/", "/playground/base.css"):
        response = api.head(path)
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path",
    [
        "/playground",
        "/playground/",
        "/playground/nothing.js",
        "/playground/../routes.py",
        "/playground/..%2froutes.py",
        "/playground/%2e%2e/routes.py",
        "/playground/..%5croutes.py",
        "/playground/%2fetc%2fpasswd",
        "/playground/static/main.js",
        "/playground/main.js%00",
        "/playground/MAIN.js",
        "/index.html",
    ],
)
def test_nothing_else_is_sent(api: httpx.Client, path: str) -> None:
    # httpx would resolve the dots itself.
    request = api.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    response = api.send(request)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_the_page_is_no_part_of_the_documented_api(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert "/v1/zero-shot" in paths
    assert not [path for path in paths if path == "/" or "playground" in path]


def test_only_its_own_scripts_may_run(api: httpx.Client) -> None:
    [policy] = api.get("/").headers.get_list("content-security-policy")
    allowed = dict(each.strip().partition(" ")[::2] for each in policy.split(";") if each.strip())
    assert allowed["default-src"] in {"'self'", "'none'"}
    assert "unsafe" not in policy
    assert {"data:", "blob:"} <= set(allowed["img-src"].split())
    assert api.get("/").headers.get_list("x-content-type-options") == ["nosniff"]


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    for name in NAMES:
        text = (FOLDER / name).read_text()
        elsewhere = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text))
        assert elsewhere <= {"http://www.w3.org"}, name  # SVG's namespace
        assert not re.search(r"innerHTML|insertAdjacentHTML|\beval\(|document\.write", text), name


def test_every_file_is_used() -> None:
    found = re.findall(r"playground/([\w-]+\.(?:js|css|svg))", (FOLDER / "index.html").read_text())
    used = {*found}
    for name in NAMES:
        for other in re.findall(r'from "([^"]+)"', (FOLDER / name).read_text()):
            used.add(str((FOLDER / name).parent.joinpath(other).resolve().relative_to(FOLDER)))
    assert used == set(NAMES) - {"index.html"}


def test_what_the_page_is_told(api: httpx.Client, start_gateway: GatewayFactory,
                               tmp_path: Path) -> None:  # fmt: skip
    response = api.get("/playground.json")
    assert response.headers["content-type"] == "application/json"
    told = response.json()
    assert told["version"] == api.get("/openapi.json").json()["info"]["version"]
    assert told["template_sets"]["photo"] == ["a photo of a {}."]
    assert told["label_sets"] == {}
    (tmp_path / "shapes.yaml").write_text("name: shapes\nlabels: [red circle, blue star]\n")
    with start_gateway(label_sets=tmp_path, max_items=7, max_image_bytes=1_000) as other:
        told = other.get("/playground.json").json()
        assert told["label_sets"] == {"shapes": 2}
        assert (told["max_items"], told["max_image_bytes"]) == (7, 1_000)
