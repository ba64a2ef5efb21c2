"""A Triton's name stands for it no more while it is asked: no fault of ours, and no end of us."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import Unavailable
from gateway.inference.client import Call
from gateway.inference.control import ModelControl
from gateway.inference.encoders import image_encoder
from gateway.inference.grpc_client import GrpcInferClient
from gateway.inference.secret import NO_SECRET
from gateway.inference.server import Server
from gateway.inference.servers import Servers
from gateway.models.manifest import read_manifest
from tests.conftest import REPOSITORY
from tests.gateway.waiting import until

ENCODER = image_encoder(read_manifest(REPOSITORY / "demo.manifest.json"))


class Stopping(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton that answers a golden vector, and holds what comes then until it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.calls = 0

    async def ServerLive(  # noqa: N802 - the proto's names
        self, request: service_pb2.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    async def ModelReady(  # noqa: N802
        self, request: service_pb2.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelReadyResponse:
        return service_pb2.ModelReadyResponse(ready=False)

    async def RepositoryIndex(  # noqa: N802
        self, request: service_pb2.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.RepositoryIndexResponse:
        return service_pb2.RepositoryIndexResponse()

    async def RepositoryModelLoad(  # noqa: N802
        self, request: service_pb2.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.RepositoryModelLoadResponse:
        self.asked.set()
        await self.go_on.wait()
        return service_pb2.RepositoryModelLoadResponse()

    async def ModelInfer(  # noqa: N802
        self, request: service_pb2.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        self.calls += 1
        if self.calls > 1:
            self.asked.set()
            await self.go_on.wait()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        vector = ENCODER.golden().vector.astype("<f4")
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(
            name=request.outputs[0].name, datatype="FP32", shape=[1, ENCODER.embedding_size]
        )
        answer.raw_output_contents.append(vector.tobytes())
        return answer


@pytest.fixture
async def triton() -> AsyncIterator[tuple[Stopping, str]]:
    stopping, server = Stopping(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stopping, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield stopping, f"127.0.0.1:{port}"
    stopping.go_on.set()
    await server.stop(None)


class Names:
    """What a name stands for, as long as the test says so."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = set(addresses)

    async def lookup(self, address: str) -> set[str]:
        return set(self.addresses)


@asynccontextmanager
async def client_of(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GrpcInferClient]:
    """A client that asks often what the name stands for."""
    monkeypatch.setattr("gateway.inference.servers.RESOLVE_S", 0.02)
    client = GrpcInferClient(["127.0.0.1:1"], ModelControl(REPOSITORY, NO_SECRET))
    await client.close()
    client._servers = Servers(["triton.example:8001"], lookup=names.lookup)
    try:
        yield client
    finally:
        await client.close()


async def test_a_call_whose_server_stops_when_its_name_is_gone(
    triton: tuple[Stopping, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, address = triton
    names = Names(address)
    async with client_of(names, monkeypatch) as client:
        call = asyncio.create_task(client.infer(Call(ENCODER, ENCODER.golden().batch), 30))
        await stopping.asked.wait()
        [server] = await client._servers.available()
        names.addresses = {"127.0.0.1:1"}
        await until(lambda: server not in client._servers._servers.values())
        stopping.go_on.set()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await call


async def test_loading_ends_with_an_error_and_not_with_whom_it_is_for(
    triton: tuple[Stopping, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, address = triton
    names, close = Names(address), Server.close

    async def at_once(server: Server, grace_s: float | None = None) -> None:
        await close(server, None)

    monkeypatch.setattr(Server, "close", at_once)  # not after a minute
    async with client_of(names, monkeypatch) as client:
        loading = asyncio.create_task(client.load(ENCODER, 30))
        await stopping.asked.wait()
        names.addresses = {"127.0.0.1:1"}
        with pytest.raises(Unavailable, match="no address names the server"):
            await loading
