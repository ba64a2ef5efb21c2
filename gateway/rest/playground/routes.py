"""The routes of the page and its files; none of them is part of the API."""

from collections.abc import Mapping
from pathlib import Path

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "static"
# Not below `/playground/`, which is open to those who have no key.
FACTS = "/playground.json"
HEADERS = {
    # A browser keeps a file but revalidates it each time: after an upgrade nobody sees an old page.
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
}


def router(facts: Mapping[str, object]) -> APIRouter:
    """`/`, `/playground/...` and the facts of the service that the page reads."""
    files = StaticFiles(directory=FOLDER)
    content = orjson.dumps(facts)

    async def page(request: Request) -> Response:
        return await asset(request, "index.html")

    async def asset(request: Request, name: str) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(HEADERS)
        return response

    async def shown() -> Response:
        return Response(content, headers=HEADERS, media_type="application/json")

    made = APIRouter(include_in_schema=False)
    made.add_api_route("/", page, methods=["GET", "HEAD"])
    made.add_api_route("/playground/{name:path}", asset, methods=["GET", "HEAD"])
    made.add_api_route(FACTS, shown, methods=["GET", "HEAD"])
    return made
