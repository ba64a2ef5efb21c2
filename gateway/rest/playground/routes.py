"""The routes of the page and its files; none of them is part of the API."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import orjson
from fastapi import APIRouter, HTTPException, Request, Response

from gateway.rest.playground.assets import PAGE, Asset, read_assets

# Not below `/playground/`, which is open to those who have no key.
FACTS = "/playground.json"
HEADERS = {
    # Kept, but asked for each time: after an upgrade nobody sees an old page.
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page must know of the service, besides its models."""

    version: str
    max_items: int
    max_image_bytes: int
    max_body_bytes: int
    template_sets: Mapping[str, tuple[str, ...]]
    label_sets: Mapping[str, int]  # how many labels each has


def router(facts: Facts) -> APIRouter:
    """`/`, `/playground/...` and what the page asks for; all read here, from memory afterwards."""
    routes = PlaygroundRoutes(read_assets(), Asset.of(orjson.dumps(asdict(facts)), ".json"))
    made = APIRouter(include_in_schema=False)
    made.add_api_route("/", routes.page, methods=["GET", "HEAD"])
    made.add_api_route(FACTS, routes.facts, methods=["GET", "HEAD"])
    made.add_api_route("/playground/{name}", routes.asset, methods=["GET", "HEAD"])
    return made


class PlaygroundRoutes:
    """Sends the page's files."""

    def __init__(self, assets: Mapping[str, Asset], facts: Asset) -> None:
        self._assets = assets
        self._facts = facts

    async def page(self, request: Request) -> Response:
        """The page."""
        return _sent(request, self._assets[PAGE])

    async def facts(self, request: Request) -> Response:
        """What the page must know of the service."""
        return _sent(request, self._facts)

    async def asset(self, request: Request, name: str) -> Response:
        """A file of the page, by its name.

        Raises:
            HTTPException: There is no such file (404).
        """
        if name not in self._assets:
            raise HTTPException(404)
        return _sent(request, self._assets[name])


def _sent(request: Request, asset: Asset) -> Response:
    headers = {**HEADERS, "etag": asset.etag}
    known = request.headers.get("if-none-match", "")
    if asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
