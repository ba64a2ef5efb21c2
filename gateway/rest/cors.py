"""CORS: the origins whose pages may use the API, and the headers that tell browsers so."""

from collections.abc import Iterable, Mapping

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

PREFLIGHT = "preflight"  # the operation of a browser's question, in the log and in metrics
# What a page's script may read beyond what browsers let it.
_EXPOSED = (
    "x-request-id", "x-model-fingerprint", "server-timing", "retry-after", "x-embedding-shape",
)  # fmt: skip


class Cors:
    """Lets scripts of pages of listed origins use the API, without the browser's credentials."""

    def __init__(self, origins: Iterable[str]) -> None:
        """`origins` as browsers send them; with none there is no CORS."""
        self._origins = frozenset(origins)

    def allows(self, said: Mapping[bytes, list[bytes]]) -> bool:
        """Whether such a script has sent a request with this `origin` and `sec-fetch-mode`.

        Forms, links and images are no scripts: their page could read no answer.
        """
        [origin, *more] = said.get(b"origin", (b"",))
        return (
            not more
            and origin.decode("latin-1") in self._origins
            and said.get(b"sec-fetch-mode", [b"cors"]) == [b"cors"]
        )

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, with preflights answered before it, and CORS headers on its answers."""
        if not self._origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),  # OpenAI's client sends a dozen of its own
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )

    def answers(self, scope: Scope) -> bool:
        """Whether an `OPTIONS` is a preflight: a browser asks if a page may send a request."""
        asked = {b"origin", b"access-control-request-method"}
        return bool(self._origins) and asked <= dict(scope["headers"]).keys()


NO_CORS = Cors(())
