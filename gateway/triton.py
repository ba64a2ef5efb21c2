"""The seam to Triton: a protocol, the gRPC client that fills it, and a fake for staged faults."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from gateway import kserve
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InferenceFailed,
    Overloaded,
    Unavailable,
)
from gateway.loading import loaded
from gateway.servers import Server, Servers, Told
from gateway.values import Vectors

RETRY_S = 1.0  # when to ask again while no Triton answers: it is probed more often than that
WRONG = "wrong_model"  # the code of errors that say so
WRONG_S = 1.0  # how long a wrong golden vector speaks for an encoder

logger = logging.getLogger(__name__)

_LATE = "the request ran out of time while its model ran"
_GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@dataclass(frozen=True, slots=True)
class Golden:
    """A known answer of an encoder, which tells a right one from a wrong one."""

    batch: NDArray[Any]  # [1, ...], as the encoder takes it
    vector: NDArray[np.float64]  # [D], unit length
    min_cosine: float


@dataclass(frozen=True, slots=True)
class Tower:
    """One encoder as Triton knows it."""

    model: str  # Triton's name of it
    version: int
    input_name: str
    output_name: str
    embedding_size: int  # D
    max_batch: int
    golden: Callable[[], Golden] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one encoder."""

    tower: Tower
    batch: NDArray[Any]  # uint8 [n, S, S, 3] or int32 [n, L]
    traceparent: str = ""  # W3C's, where the call is traced


class InferClient(Protocol):
    """What the gateway needs of Triton."""

    def servers(self) -> int:
        """How many Tritons there are."""
        ...

    def check(self) -> None:
        """Says at once when asking is in vain.

        Raises:
            Unavailable: No Triton answers.
        """
        ...

    async def infer(self, call: Call, within: float) -> Vectors:
        """Runs one encoder: returns float32 [n, D].

        Args:
            call: What to run, and on what.
            within: Seconds until the answer must be there.

        Raises:
            DeadlineExceeded: It was not.
            Overloaded: Triton's queue is full.
            Unavailable: Triton cannot be reached, or does not serve this model and version, or
                serves another under its name.
            InferenceFailed: It answered with an error, or with the wrong shape.
        """
        ...

    async def load(self, tower: Tower, within: float) -> None:
        """Makes every Triton that answers serve an encoder in this version; returns when all do.

        Raises:
            Unavailable: One does not; says why.
        """
        ...

    async def verify(self, tower: Tower, within: float) -> None:
        """Runs an encoder's golden input on every Triton that answers.

        Raises:
            Unavailable: None gives the right vector.
            Others: As `infer`.
        """
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class GrpcInferClient:
    """Calls one or several Tritons over gRPC.

    One per process, made inside the running event loop, since channels belong to that loop. No
    encoder is used over a connection before its golden vector came back right over it.
    """

    def __init__(
        self, addresses: Sequence[str], told: Told = lambda answering, broken: None
    ) -> None:
        """Takes where they are, and who is told how many of them answer, and how many do not."""
        self._servers = Servers(addresses, told)

    def servers(self) -> int:
        """See `InferClient.servers`."""
        return max(1, len(self._servers))

    def check(self) -> None:
        """See `InferClient.check`."""
        if self._servers.broken():
            raise Unavailable("the inference server does not answer", retry_after_s=RETRY_S)

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`. Goes to a second server once if the first one's line breaks."""
        deadline = _now() + within
        try:
            async with asyncio.timeout(within):
                server = await self._servers.pick()
        except TimeoutError:
            raise Unavailable("the inference server's name cannot be resolved") from None
        if server is None:
            self.check()
            raise Unavailable("the inference server's name stands for no address")
        try:
            return await self._ask(server, call, deadline)
        except _ElsewhereError as first:
            second = await self._servers.pick(without=server)
            if second is None:
                raise first.told from first
        try:
            return await self._ask(second, call, deadline)
        except _ElsewhereError as error:
            raise error.told from error

    async def load(self, tower: Tower, within: float) -> None:
        """See `InferClient.load`."""
        async with asyncio.timeout(within):
            servers = await self._servers.all()
            if not servers:
                raise Unavailable("the inference server does not answer")
            loading = (loaded(each, tower.model, tower.version, within) for each in servers)
            await asyncio.gather(*loading)

    async def verify(self, tower: Tower, within: float) -> None:
        """See `InferClient.verify`."""
        deadline = _now() + within
        try:
            async with asyncio.timeout(within):
                servers = await self._servers.all()
        except TimeoutError:
            servers = []
        if not servers:
            self.check()
            raise Unavailable("the inference server's name cannot be resolved")
        outcomes = await asyncio.gather(
            *(self._verify(server, tower, deadline, again=True) for server in servers),
            return_exceptions=True,
        )
        failed = [each for each in outcomes if isinstance(each, BaseException)]
        if len(failed) == len(outcomes):
            raise failed[0].told if isinstance(failed[0], _ElsewhereError) else failed[0]

    async def close(self) -> None:
        """See `InferClient.close`."""
        await self._servers.close()

    async def _ask(self, server: Server, call: Call, deadline: float) -> Vectors:
        if call.tower not in server.verified:
            await self._verify(server, call.tower, deadline)
        epoch = server.epoch
        vectors = await self._send(server, call, deadline)
        if server.epoch != epoch or call.tower not in server.verified:
            # What answered may not be what was verified.
            raise _ElsewhereError("the connection to the inference server was lost")
        return vectors

    async def _verify(
        self, server: Server, tower: Tower, deadline: float, *, again: bool = False
    ) -> None:
        name = tower.model
        async with _held(server.verifying, deadline):
            if not again and tower in server.verified:
                return
            if not again and _now() < server.wrong.get(tower, 0.0):
                raise _ElsewhereError(f"{name}: its golden vector was wrong a moment ago", WRONG)
            epoch, golden = server.epoch, tower.golden()
            try:
                [vector] = await self._send(server, Call(tower, golden.batch), deadline)
            except InferenceFailed as error:
                logger.error("golden vector: %s", error.message)
                server.fails(tower, _now() + WRONG_S)
                raise _ElsewhereError(f"{name} fails on the inference server") from error
            cosine = cosine_to(golden, vector)
            if cosine < golden.min_cosine:
                server.fails(tower, _now() + WRONG_S)
                raise _ElsewhereError(_differs(name, cosine), WRONG)
            if server.epoch != epoch:
                raise _ElsewhereError("the connection to the inference server was lost")
            server.wrong.pop(tower, None)
            server.verified.add(tower)

    async def _send(self, server: Server, call: Call, deadline: float) -> Vectors:
        tower, within = call.tower, max(0.001, deadline - _now())
        request = kserve.infer_request(
            tower.model, tower.version, tower.input_name, tower.output_name, call.batch
        )
        try:
            async with server.working():
                response = await server.stub.ModelInfer(
                    request, timeout=within, metadata=_metadata(call)
                )
        except grpc.aio.AioRpcError as error:
            raise await _translated(error, server, call, within) from error
        server.answered()
        return _checked(kserve.output(response), call)


def _metadata(call: Call) -> tuple[tuple[str, str], ...]:
    return (("traceparent", call.traceparent),) if call.traceparent else ()


class _ElsewhereError(Exception):
    """This server cannot be used for the call; another may do."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.told = Unavailable(message, code=code, retry_after_s=RETRY_S)


async def _translated(
    error: grpc.aio.AioRpcError, server: Server, call: Call, within: float
) -> GatewayError | _ElsewhereError:
    status, name = error.code(), call.tower.model
    if status == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(_LATE)
    if status not in _GONE:
        server.answered()
    if status == grpc.StatusCode.NOT_FOUND:
        server.verified.discard(call.tower)
        return Unavailable(f"the inference server does not serve {name}")
    if status in _GONE:
        # Triton says UNAVAILABLE for a full queue and for a model that is not loaded, and gRPC
        # for a broken line. The connection tells the last apart, and Triton itself the others.
        ready = await _ready(server, call, within)
        if ready is None:
            server.failed()
            server.lost()
            return _ElsewhereError("the inference server cannot be reached")
        if ready:
            return Overloaded("the inference server's queue is full")
        server.verified.discard(call.tower)
        return Unavailable(f"the inference server does not serve {name}")
    return InferenceFailed(
        f"Triton at {server.address}, {name} version {call.tower.version}: "
        f"{status.name}: {error.details()}"
    )


async def _ready(server: Server, call: Call, within: float) -> bool | None:
    """What Triton says of a model; None where the line is broken."""
    if not server.connected():
        return None
    asked = service_pb2.ModelReadyRequest(name=call.tower.model, version=str(call.tower.version))
    try:
        return bool((await server.stub.ModelReady(asked, timeout=min(within, 1.0))).ready)
    except grpc.aio.AioRpcError:
        return None


class FakeInferClient:
    """Fills the seam in tests that stage a fault: answers with whatever `behave` returns."""

    def __init__(self, behave: Callable[[Call], Vectors], delay: float = 0.0) -> None:
        self._behave = behave
        self._delay = delay
        self.calls: list[Call] = []

    def servers(self) -> int:
        """One."""
        return 1

    def check(self) -> None:
        """It always answers."""

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`; waits `delay` seconds, or until the time is over, first."""
        self.calls.append(call)
        await asyncio.sleep(min(self._delay, within))
        if self._delay >= within:
            raise DeadlineExceeded(_LATE)
        return _checked(self._behave(call), call)

    async def load(self, tower: Tower, within: float) -> None:
        """Everything is loaded."""

    async def verify(self, tower: Tower, within: float) -> None:
        """See `InferClient.verify`."""
        golden = tower.golden()
        [vector] = await self.infer(Call(tower, golden.batch), within)
        cosine = cosine_to(golden, vector)
        if cosine < golden.min_cosine:
            raise Unavailable(_differs(tower.model, cosine), code=WRONG)

    async def close(self) -> None:
        """Nothing to close."""


def cosine_to(golden: Golden, vector: NDArray[np.float32]) -> float:
    """The cosine of a vector [D] with the published one."""
    return float(vector.astype(np.float64) @ golden.vector)


def _differs(name: str, cosine: float) -> str:
    return f"{name}: its golden vector has cosine {cosine:.4f} to the published one"


@asynccontextmanager
async def _held(lock: asyncio.Lock, deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            await lock.acquire()
    except TimeoutError:
        raise DeadlineExceeded(_LATE) from None
    try:
        yield
    finally:
        lock.release()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _checked(vectors: NDArray[Any] | None, call: Call) -> Vectors:
    """A wrong model under the right name must not pass for an answer."""
    name, wanted = call.tower.model, (len(call.batch), call.tower.embedding_size)
    if vectors is None or vectors.shape != wanted or vectors.dtype != np.float32:
        found = "nothing" if vectors is None else f"{vectors.dtype} {list(vectors.shape)}"
        raise InferenceFailed(f"{name}: answered {found}, not float32 {list(wanted)}")
    if not np.isfinite(vectors).all():
        raise InferenceFailed(f"{name}: answered vectors that are not finite")
    return vectors
