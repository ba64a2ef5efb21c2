"""Around every request: its record, an id, and an answer even where the code below fails."""

import asyncio
import logging
from collections.abc import Iterator

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.clients import by_address
from gateway.errors import Unavailable
from gateway.rest.problems import internal_error, rendered
from gateway.rest.security import LIVE, READY, SecurityHeaders
from gateway.telemetry.observer import Observer
from gateway.telemetry.record import HEADER, Record, request_id

# Routes of probes and of pages, whose files are about twenty requests of a browser.
_QUIET = frozenset(
    {
        *LIVE, *READY, "/metrics", "/", "/playground/{name}", "/playground.json",
        "/docs", "/openapi.json", "/static-offline-docs",
    }
)  # fmt: skip

logger = logging.getLogger(__name__)


class RequestContext:
    """Gives each request its record and its id, `x-request-id`, and has the observer record it.

    Adds the security headers to every answer.
    """

    def __init__(self, app: ASGIApp, observer: Observer, *, tls: bool) -> None:
        self._app = app
        self._observer = observer
        self._security = SecurityHeaders(tls=tls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(
            protocol="rest",
            method=scope["method"],
            request_id=request_id(_offered(scope)),
            client=by_address(scope["client"][0] if scope["client"] else ""),
        )
        scope.setdefault("state", {})["record"] = record
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = record.request_id
                self._security.add(headers.raw, scope["path"])
            await send(message)

        with self._observer.observing(record, scope["headers"]):
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:  # by uvicorn: the time to drain is over
                if status:
                    raise
                late = Unavailable("the service is shutting down; send the request elsewhere")
                await rendered(late, record)(scope, receive, send_with_id)
            except Exception:
                logger.exception("request %s failed", record.request_id)
                if status:
                    raise
                record.error = "internal_error"
                await internal_error(record.request_id)(scope, receive, send_with_id)
            finally:
                record.operation = _operation(scope) or record.operation
                record.quiet = record.operation in _QUIET
                record.end(str(status))


def _operation(scope: Scope) -> str:
    """The route as it was declared; of a folder of files, the folder; "" where there is none."""
    if "route" in scope:
        return str(getattr(scope["route"], "path", ""))
    if "endpoint" not in scope:
        return ""
    return str(scope.get("root_path") or scope["path"])


def _offered(scope: Scope) -> Iterator[str]:
    wanted = HEADER.encode()
    return (value.decode("latin-1") for name, value in scope["headers"] if name == wanted)
