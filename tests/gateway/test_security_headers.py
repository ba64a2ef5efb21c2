"""Headers for browsers: they run, frame, guess and keep nothing that is no page."""

import re

import httpx
import pytest

ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def policy(response: httpx.Response) -> dict[str, set[str]]:
    """The Content-Security-Policy: directive -> sources."""
    [written] = response.headers.get_list("content-security-policy")
    parts = [part.split() for part in written.split(";") if part.strip()]
    return {name: set(sources) for name, *sources in parts}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("GET", "/v1/embeddings", 405),
        ("POST", "/v1/embeddings", 400),
    ],
)
def test_answers_of_the_api(api: httpx.Client, method: str, path: str, status: int) -> None:
    response = api.request(method, path, content=b"{" if method == "POST" else None)
    assert response.status_code == status
    assert ALWAYS.items() <= dict(response.headers).items()
    assert response.headers["cache-control"] == "no-store"
    assert policy(response)["default-src"] == {"'none'"}
    assert policy(response)["frame-ancestors"] == {"'none'"}
    assert "server" not in response.headers
    assert "strict-transport-security" not in response.headers  # plain text is served here
    assert not any(name.startswith("access-control-") for name in response.headers)


def test_an_answer_with_vectors(api: httpx.Client) -> None:
    response = api.post("/v1/embeddings", json={"model": "demo", "input": "a red circle"})
    assert response.status_code == 200
    assert ALWAYS.items() <= dict(response.headers).items()
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/playground/main.js"])
def test_the_playground_runs_only_what_is_served_here(api: httpx.Client, path: str) -> None:
    response = api.get(path)
    assert response.status_code == 200
    assert ALWAYS.items() <= dict(response.headers).items()
    allowed = policy(response)
    for kind in ("script-src", "style-src", "connect-src"):
        assert allowed.get(kind, allowed["default-src"]) == {"'self'"}
    assert allowed["img-src"] == {"'self'", "data:", "blob:"}
    for directive in ("object-src", "base-uri", "frame-ancestors"):
        assert allowed[directive] == {"'none'"}


def test_the_playground_has_nothing_inline(api: httpx.Client) -> None:
    page = api.get("/").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_the_docs_page_loads_only_from_here(api: httpx.Client) -> None:
    response = api.get("/docs")
    allowed = policy(response)
    assert allowed["default-src"] == {"'none'"}
    assert allowed["script-src"] == {"'self'", "'unsafe-inline'"}
    assert allowed["connect-src"] == {"'self'"}
    for address in re.findall(r"""(?:src|href)=["']([^"']+)""", response.text):
        assert address.startswith("/")
        loaded = api.get(address)
        assert loaded.status_code == 200
        assert loaded.headers["x-content-type-options"] == "nosniff"
