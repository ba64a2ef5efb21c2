"""Makes a Triton serve a version of a model that came after it was started."""

import asyncio

import grpc
from tritonclient.grpc import service_pb2

from gateway.errors import Unavailable
from gateway.inference.secret import METADATA, Secret, SecretError
from gateway.inference.server import ClosedError, Server, closing_told

POLL_S = 0.2
REASON = 300  # characters of what Triton says
SETTLE_S = 2.0  # for a version to be ready after Triton has said that it loaded the model


async def loaded(server: Server, model: str, version: int, within: float, secret: Secret) -> None:
    """Returns when the server serves this version.

    Under `--model-control-mode=explicit` it is told to. In polling mode it refuses to be told,
    and finds the version by itself: ask again later.

    Raises:
        Unavailable: It does not serve it; says why.
    """
    if await _ready(server, model, version):
        return
    asked = service_pb2.RepositoryModelLoadRequest(model_name=model)
    try:
        async with server.working():
            with closing_told():
                await server.stub.RepositoryModelLoad(
                    asked, timeout=within, metadata=secret.metadata()
                )
    except SecretError as error:
        raise Unavailable(f"{model}: {error}") from error
    except grpc.aio.AioRpcError as error:
        why = " ".join((error.details() or "").split())[:REASON]  # it may hold a traceback
        hint = secret.hint() if METADATA in why else ""  # what Triton asks for by its name
        raise Unavailable(f"{model}: Triton at {server.address}: {why}{hint}") from error
    except ClosedError as error:
        raise Unavailable(f"{model}: Triton at {server.address} is not named any more") from error
    for _ in range(round(SETTLE_S / POLL_S)):
        if await _ready(server, model, version):
            return
        await asyncio.sleep(POLL_S)
    raise Unavailable(f"{model}: Triton at {server.address} has no version {version}")


async def _ready(server: Server, model: str, version: int) -> bool:
    asked = service_pb2.ModelReadyRequest(name=model, version=str(version))
    try:
        with closing_told():
            return bool((await server.stub.ModelReady(asked, timeout=SETTLE_S)).ready)
    except (grpc.aio.AioRpcError, ClosedError):
        return False
