"""Which requests need a key, the check of hosts and origins, CORS, and every answer's headers."""

from collections.abc import Container, Iterable, Mapping, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from gateway.access.hosts import Hosts, name_of
from gateway.errors import quoted
from gateway.rest.problems import problem

PREFLIGHT = "preflight"  # the operation of a browser's question, in the log and in metrics
# What a page's script may read beyond what browsers let it.
_EXPOSED = (
    "x-request-id", "x-model-fingerprint", "server-timing", "retry-after", "x-embedding-shape",
)  # fmt: skip
LIVE = ("/livez", "/v1/health/live")  # the paths of one probe
READY = ("/readyz", "/v1/health/ready", "/health", "/v1/health")
# What may be had without a key: probes, the playground's files, and what the API looks like.
_OPEN = frozenset(
    {
        *LIVE, *READY, "/", "/docs", "/docs/oauth2-redirect", "/openapi.json",
    }
)  # fmt: skip
# What a request that was turned away was for, in the log and in metrics; endpoints come beside it.
_GUARDED = frozenset({"/v1/admin/reload", "/metrics", "/playground.json", "/info"})
_PLAYGROUND = "/"  # answers a POST of TEI's clients as well
_BATCHES = ("/v1/files", "/v1/batches")
_LISTS = frozenset({"/v1/models", "/models"})
_ONE_MODEL, _CARD = "/v1/models/{model_id:path}", "/v1/cards/{model_id:path}"
_OPEN_BELOW = ("/playground/", "/static-offline-docs/")
_SAFE_METHODS = frozenset({"GET", "HEAD"})
# The headers that name the host that a request is for, and the page that sent it.
_TELLING = frozenset({b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"})
_OURS = frozenset({b"same-origin", b"none"})  # from our own pages, or from the user

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
# Swagger UI writes its styles, and is started by a script, in the page itself.
_DOCS = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
_HSTS = "max-age=31536000"


class SecurityHeaders:
    """What every answer says to browsers, where it does not say otherwise itself."""

    def __init__(self, *, tls: bool) -> None:
        always = _HEADERS | ({"strict-transport-security": _HSTS} if tls else {})
        # Answers of the API are kept by nobody.
        self._answer = _raw(
            always | {"content-security-policy": _NOTHING, "cache-control": "no-store"}
        )
        self._docs = _raw(always | {"content-security-policy": _DOCS, "cache-control": "no-store"})
        self._file = _raw(always | {"content-security-policy": _NOTHING})

    def add(self, headers: list[tuple[bytes, bytes]], path: str) -> None:
        """Add what is missing to the headers of an answer, as ASGI has them."""
        wanted = self._answer
        if path == "/docs":
            wanted = self._docs
        elif path.startswith(_OPEN_BELOW):
            wanted = self._file
        said = {name for name, _ in headers}
        headers.extend(pair for pair in wanted if pair[0] not in said)


def _raw(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.encode(), value.encode()) for name, value in headers.items())


def is_open(scope: Mapping[str, object]) -> bool:
    """Whether this request needs no key."""
    path = str(scope["path"])
    known = path in _OPEN or path.startswith(_OPEN_BELOW)
    return known and scope["method"] in _SAFE_METHODS


def guarded_operation(path: str, endpoints: Container[str]) -> str:
    """The route of a path that needs a key, among those here and the endpoints that run a model.

    Empty where none is known, so never any path at all.
    """
    for folder in _BATCHES:
        if path == folder or path.startswith(f"{folder}/"):
            return folder
    return path if path in _GUARDED else api_operation(path, endpoints)


def api_operation(path: str, endpoints: Container[str]) -> str:
    """The route of a path that programs call for what models say or are; else empty."""
    if path in _LISTS or path in endpoints:
        return path
    below = (each for each in (_ONE_MODEL, _CARD) if path.startswith(each.partition("{")[0]))
    return next(below, "")


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


class BrowserGuard:
    """Refuses what pages of other origins have a browser send, before anything else is looked at.

    Browsers say where a request comes from (`Sec-Fetch-Site`, to addresses that they trust), older
    ones its `Origin`; programs send neither. Links to a page of ours may be followed, and scripts
    of listed origins may use the API.
    """

    def __init__(
        self, hosts: Hosts | None, cors: Cors = NO_CORS, endpoints: Container[str] = ()
    ) -> None:
        """`hosts`: those that are answered to; None: all. `endpoints` are paths of the API."""
        self._hosts = hosts
        self._cors = cors
        self._endpoints = endpoints
        self._passed: bytes | None = None  # the last host that may pass: mostly the next as well

    def refusal(self, scope: Scope) -> tuple[str, Response] | None:
        """The error's code and its answer; None where the request may pass."""
        said: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in _TELLING:
                said.setdefault(name, []).append(value)
        hosts = said.get(b"host", ())
        if (len(hosts) != 1 or hosts[0] != self._passed) and (
            wrong := self._wrong_host(hosts, scope["http_version"])
        ):
            return wrong
        if _is_foreign(scope["method"], hosts[0] if hosts else b"", said) and not (
            scope["path"] != _PLAYGROUND
            and self._cors.allows(said)
            and api_operation(scope["path"], self._endpoints)
        ):
            code = "cross_origin"
            return code, problem(403, "pages of other origins may not use this service", code)
        return None

    def _wrong_host(self, hosts: Sequence[bytes], version: str) -> tuple[str, Response] | None:
        """As `refusal`, by what the request's Host headers say."""
        [host, *more] = hosts or [b""]
        name = name_of(host.decode("latin-1"))
        # RFC 9112, section 3.2.
        if more or name is None or (not hosts and version >= "1.1"):
            code = "invalid_request"
            return code, problem(400, "a request needs one Host header, which names a host", code)
        if self._hosts is not None and hosts and name not in self._hosts:
            code = "unknown_host"
            message = (
                f"{quoted(name)} is no name of this service; set GATEWAY_HOSTS if it should be"
            )
            return code, problem(421, message, code)
        if hosts:
            self._passed = host
        return None


def _is_foreign(method: str, host: bytes, said: Mapping[bytes, list[bytes]]) -> bool:
    """Whether a page of another origin has sent it."""
    if sites := said.get(b"sec-fetch-site"):
        followed = (
            method in _SAFE_METHODS
            and said.get(b"sec-fetch-mode") == [b"navigate"]
            and said.get(b"sec-fetch-dest") == [b"document"]
        )
        return not (followed or _OURS.issuperset(sites))
    origins = said.get(b"origin", ())
    return any(origin.partition(b"://")[2].lower() != host.lower() for origin in origins)
