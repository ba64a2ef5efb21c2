"""`/metrics`, and a port of its own for it, for scrapers that may not call the API."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import uvicorn
from fastapi import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from gateway.rest.connections import ConnectionLimits, Connections
from gateway.rest.http1 import Http1
from gateway.rest.problems import problem
from gateway.rest.security import BrowserGuard
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics

# Beyond, the connection that has waited longest ends. An answer is small, and read at any rate.
LIMITS = ConnectionLimits(connections=16, head_s=10.0, rate=0, unread_bytes=2**24)


async def scraped(metrics: Metrics) -> Response:
    """In Prometheus's text format."""
    return Response(await asyncio.to_thread(metrics.rendered), media_type=CONTENT_TYPE)


@asynccontextmanager
async def metrics_port(
    host: str, port: int, guard: BrowserGuard, metrics: Metrics
) -> AsyncIterator[None]:
    """Answer `GET /metrics` and nothing else, on a port that several processes may share.

    Raises:
        OSError: The address cannot be listened on.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if (refused := guard.refusal(scope)) is not None:
            _, response = refused
        elif scope["path"] == "/metrics" and scope["method"] in {"GET", "HEAD"}:
            response = await scraped(metrics)
            response.headers["x-content-type-options"] = "nosniff"
        else:
            response = problem(404, "only GET /metrics is here", "not_found")
        # One answer each: those who ask on and on would hold all connections.
        response.headers["connection"] = "close"
        await response(scope, receive, send)

    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, ws="none", lifespan="off",
        proxy_headers=False, server_header=False,
    )  # fmt: skip
    config.load()
    state = ServerState()
    protocol = partial(Http1, Connections(LIMITS), config=config, server_state=state, app_state={})
    v6 = ":" in host
    listener = socket.create_server(
        (host, port), family=socket.AF_INET6 if v6 else socket.AF_INET, reuse_port=True,
        dualstack_ipv6=v6,  # `::` is every address, as of the other ports
    )  # fmt: skip
    listening = await asyncio.get_running_loop().create_server(protocol, sock=listener)
    try:
        yield
    finally:
        listening.close()
        for connection in list(state.connections):
            connection.shutdown()
