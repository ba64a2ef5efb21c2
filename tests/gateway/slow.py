"""A gateway in this process, on real ports, over an encoder that is slow and costs no CPU."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

from benchmarks.traffic.connection import Target
from gateway.app import create_app, load
from gateway.inference.client import Call, FakeInferClient
from gateway.models.values import Vectors
from gateway.process.serving import config
from gateway.settings import Settings
from tests.conftest import REPOSITORY, free_port
from tests.gateway.fakes import unit


class SlowEncoder(FakeInferClient):
    """Encodes a fixed number of rows a second, call after call."""

    def __init__(self, rows_per_second: float) -> None:
        super().__init__(unit)
        self._seconds = 1 / rows_per_second
        self._turn = asyncio.Lock()

    async def infer(self, call: Call, within: float) -> Vectors:
        async with self._turn:
            await asyncio.sleep(len(call.batch) * self._seconds)
            return await super().infer(call, within)


@asynccontextmanager
async def served(client: FakeInferClient, **settings: Any) -> AsyncIterator[Target]:
    """A gateway in this process that listens on both ports."""
    given = Settings(
        model_repository=REPOSITORY, grpc_port=free_port(), triton_verify_s=3600, **settings
    )
    server = uvicorn.Server(config(create_app(given, load(given), lambda _: client), given))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            port = listener.getsockname()[1]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as api:
                await api.get("/livez")  # it waits for its turn until there is a server
            yield Target(f"127.0.0.1:{port}", f"127.0.0.1:{given.grpc_port}", "demo")
        finally:
            server.should_exit = True
            await serving
