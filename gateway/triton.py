"""The seam to Triton: a protocol, the gRPC client that fills it, and a fake for staged faults."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InferenceFailed,
    Overloaded,
    Unavailable,
)
from gateway.servers import Server, Servers
from gateway.values import Vectors

_LATE = "the request ran out of time while its model ran"
_GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@dataclass(frozen=True, slots=True)
class Tower:
    """One encoder as Triton knows it."""

    model: str  # Triton's name of it
    version: int
    input_name: str
    output_name: str
    embedding_size: int  # D
    max_batch: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one encoder."""

    tower: Tower
    batch: NDArray[Any]  # uint8 [n, S, S, 3] or int32 [n, L]


class InferClient(Protocol):
    """What the gateway needs of Triton."""

    def servers(self) -> int:
        """How many Tritons there are."""
        ...

    async def infer(self, call: Call, within: float) -> Vectors:
        """Runs one encoder: returns float32 [n, D].

        Args:
            call: What to run, and on what.
            within: Seconds until the answer must be there.

        Raises:
            DeadlineExceeded: It was not.
            Overloaded: Triton's queue is full.
            Unavailable: Triton cannot be reached, or does not serve this model and version.
            InferenceFailed: It answered with an error, or with the wrong shape.
        """
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class GrpcInferClient:
    """Calls one or several Tritons over gRPC.

    One per process, made inside the running event loop, since channels belong to that loop.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._servers = Servers(addresses)

    def servers(self) -> int:
        """See `InferClient.servers`."""
        return max(1, len(self._servers))

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`. Goes to a second server once if the first one's line breaks."""
        request = _request(call)
        deadline = asyncio.get_running_loop().time() + within
        try:
            async with asyncio.timeout(within):
                server = await self._servers.pick()
        except TimeoutError:
            server = None
        if server is None:
            raise Unavailable("the inference server's name cannot be resolved")
        try:
            return await self._ask(server, call, request, within)
        except _LineBroken as broken:
            second = await self._servers.pick(without=server)
            if second is None:
                raise broken.as_unavailable() from broken
        try:
            left = max(0.001, deadline - asyncio.get_running_loop().time())
            return await self._ask(second, call, request, left)
        except _LineBroken as broken:
            raise broken.as_unavailable() from broken

    async def close(self) -> None:
        """See `InferClient.close`."""
        await self._servers.close()

    async def _ask(
        self, server: Server, call: Call, request: service_pb2.ModelInferRequest, within: float
    ) -> Vectors:
        try:
            async with server.working():
                response = await server.stub.ModelInfer(request, timeout=within)
        except grpc.aio.AioRpcError as error:
            raise await _translated(error, server, call, within) from error
        return _checked(_output(response), call)


class _LineBroken(Exception):
    """The connection was lost, or could not be made: nothing is known of the call."""

    def as_unavailable(self) -> Unavailable:
        return Unavailable("the inference server cannot be reached")


async def _translated(
    error: grpc.aio.AioRpcError, server: Server, call: Call, within: float
) -> GatewayError | _LineBroken:
    status, name = error.code(), call.tower.model
    if status == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(_LATE)
    if status == grpc.StatusCode.NOT_FOUND:
        return Unavailable(f"the inference server does not serve {name}")
    if status in _GONE:
        # Triton says UNAVAILABLE for a full queue and for a model that is not loaded, and gRPC
        # for a broken line. The connection tells the last apart, and Triton itself the others.
        if not server.connected():
            return _LineBroken(error.details())
        try:
            asked = service_pb2.ModelReadyRequest(name=name, version=str(call.tower.version))
            ready = (await server.stub.ModelReady(asked, timeout=min(within, 1.0))).ready
        except grpc.aio.AioRpcError:
            return _LineBroken(error.details())
        if ready:
            return Overloaded("the inference server's queue is full")
        return Unavailable(f"the inference server does not serve {name}")
    return InferenceFailed(
        f"Triton at {server.address}, {name} version {call.tower.version}: "
        f"{status.name}: {error.details()}"
    )


class FakeInferClient:
    """Fills the seam in tests that stage a fault: answers with whatever `behave` returns."""

    def __init__(self, behave: Callable[[Call], Vectors], delay: float = 0.0) -> None:
        self._behave = behave
        self._delay = delay
        self.calls: list[Call] = []

    def servers(self) -> int:
        """One."""
        return 1

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`; waits `delay` seconds, or until the time is over, first."""
        self.calls.append(call)
        await asyncio.sleep(min(self._delay, within))
        if self._delay >= within:
            raise DeadlineExceeded(_LATE)
        return _checked(self._behave(call), call)

    async def close(self) -> None:
        """Nothing to close."""


def _request(call: Call) -> service_pb2.ModelInferRequest:
    tower, batch = call.tower, call.batch
    request = service_pb2.ModelInferRequest(
        model_name=tower.model, model_version=str(tower.version)
    )
    request.inputs.add(
        name=tower.input_name, datatype=np_to_triton_dtype(batch.dtype), shape=batch.shape
    )
    request.outputs.add(name=tower.output_name)
    request.raw_input_contents.append(batch.tobytes())
    return request


def _output(response: service_pb2.ModelInferResponse) -> NDArray[Any] | None:
    if len(response.outputs) != 1 or len(response.raw_output_contents) != 1:
        return None
    [described], [raw] = response.outputs, response.raw_output_contents
    if described.datatype != "FP32" or len(raw) != 4 * int(np.prod(described.shape)):
        return None
    return np.frombuffer(raw, dtype="<f4").reshape(described.shape)


def _checked(vectors: NDArray[Any] | None, call: Call) -> Vectors:
    """A wrong model under the right name must not pass for an answer."""
    name, wanted = call.tower.model, (len(call.batch), call.tower.embedding_size)
    if vectors is None or vectors.shape != wanted or vectors.dtype != np.float32:
        found = "nothing" if vectors is None else f"{vectors.dtype} {list(vectors.shape)}"
        raise InferenceFailed(f"{name}: answered {found}, not float32 {list(wanted)}")
    if not np.isfinite(vectors).all():
        raise InferenceFailed(f"{name}: answered vectors that are not finite")
    return vectors
