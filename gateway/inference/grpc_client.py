"""The client of Triton over gRPC."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

import grpc

from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, Overloaded, Unavailable
from gateway.inference.client import LATE, WRONG, Call, Encoder, checked, cosine_to, differs
from gateway.inference.control import ModelControl
from gateway.inference.failures import (
    RETRY_S,
    ElsewhereError,
    NotServedError,
    PassedError,
    translated,
)
from gateway.inference.messages import infer_request, output
from gateway.inference.server import ClosedError, Server, Unused, detect_closing, now
from gateway.inference.servers import OnStatus, Servers
from gateway.inference.sleep import Sleepers
from gateway.models.values import Vectors

LEAST_S = 0.001  # of a call's time
WRONG_S = 1.0  # how long an encoder stays refused after a wrong golden vector
BULK_WAIT_S = 1.0  # for which other gateways' urgent calls may pass a bulk call in Triton's queue
UNUSED_S = 60.0  # between golden vectors of an encoder that has not been used or loaded since

logger = logging.getLogger(__name__)


class GrpcInferClient:
    """Calls one or several Tritons over gRPC.

    One per process, created inside the running event loop, because channels belong to a loop. An
    encoder is used over a connection only after its golden vector came back right over it.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        control: ModelControl,
        on_status: OnStatus = lambda answering, broken: None,
        wake: Literal["wait", "refuse"] | None = None,
    ) -> None:
        """Begin to resolve the addresses, `host:port` of each Triton.

        `control` has Tritons load and unload models; `on_status` is called with the number of
        Tritons that answer, and of those that do not. `wake` says what becomes of a request for
        an encoder that is not loaded; None: it fails, and nothing is loaded.
        """
        self._control = control
        self._wakes = wake is not None
        self._sleepers = Sleepers(self.load, wait=wake == "wait")
        self._servers = Servers(addresses, on_status)
        self._doubted: set[Encoder] = set()  # in doubt, and not yet reported by `verify`

    def servers(self) -> int:
        """See `InferClient.servers`."""
        return max(1, len(self._servers))

    def check(self) -> None:
        """See `InferClient.check`."""
        if self._servers.broken:
            raise Unavailable("the inference server does not answer", retry_after_s=RETRY_S)

    async def infer(self, call: Call, within: float) -> Vectors:
        """See `InferClient.infer`. Have an encoder loaded that is asleep, and try again once."""
        deadline = now() + within
        if not self._servers.resolved:
            await self._all(within)
        try:
            try:
                return await self._infer(call, deadline)
            except NotServedError:
                if not self._wakes:
                    raise
                await self._sleepers.wake(call.encoder, max(LEAST_S, deadline - now()))
            return await self._infer(call, deadline)
        except (ElsewhereError, NotServedError) as error:
            raise error.unavailable from error

    async def _infer(self, call: Call, deadline: float) -> Vectors:
        """Try a second server once if the first connection breaks."""
        server = self._servers.pick()
        if server is None:
            self.check()
            raise Unavailable("the inference server's name stands for no address")
        try:
            return await self._call(server, call, deadline)
        except ElsewhereError:
            second = self._servers.pick(without=server)
            if second is None:
                raise
        return await self._call(second, call, deadline)

    async def load(self, encoder: Encoder, within: float) -> None:
        """See `InferClient.load`."""
        async with asyncio.timeout(within):
            servers = await self._servers.available()
            if not servers:
                raise Unavailable("the inference server does not answer")
            loading = (
                self._control.load(each, encoder.model, encoder.version, within) for each in servers
            )
            await asyncio.gather(*loading)

    async def release(
        self, served: Collection[Encoder], gone: Collection[str], looks: float
    ) -> list[str]:
        """See `InferClient.release`."""
        versions = {encoder.model: encoder.version for encoder in served}
        answering = await self._servers.available()
        found = await asyncio.gather(
            *(self._control.release(each, versions, gone, looks) for each in answering)
        )
        return [problem for problems in found for problem in problems]

    async def rest(self, served: Collection[Encoder], looks: int) -> list[str]:
        """See `InferClient.rest`."""
        return await self._sleepers.rest(
            self._control, await self._servers.available(), served, looks
        )

    def asleep(self, encoder: Encoder) -> bool:
        """See `InferClient.asleep`."""
        return encoder in self._sleepers.asleep

    async def verify(self, encoder: Encoder, within: float) -> bool:
        """See `InferClient.verify`."""
        deadline = now() + within
        servers = await self._all(within)
        if not servers:
            self.check()
            raise Unavailable("the inference server's name stands for no address")
        outcomes = await asyncio.gather(
            *(self._check(server, encoder, deadline) for server in servers), return_exceptions=True
        )
        failed = [each for each in outcomes if isinstance(each, BaseException)]
        self._sleepers.found(encoder, asleep=all(each is True for each in outcomes))
        if len(failed) < len(outcomes):
            doubted = encoder in self._doubted
            self._doubted.discard(encoder)
            return doubted
        error = failed[0]
        if isinstance(error, (ElsewhereError, NotServedError)):
            error = error.unavailable
        if isinstance(error, GatewayError) and error.code == WRONG:
            self._doubted.discard(encoder)  # the error reports it
        raise error

    async def close(self) -> None:
        """See `InferClient.close`."""
        await self._sleepers.close()
        await self._servers.close()

    async def _all(self, within: float) -> list[Server]:
        try:
            async with asyncio.timeout(within):
                return await self._servers.available()
        except TimeoutError:
            raise Unavailable("the inference server's name cannot be resolved") from None

    async def _call(self, server: Server, call: Call, deadline: float) -> Vectors:
        if not server.trusts(call.encoder):
            await self._verify(server, call.encoder, deadline)
        epoch = server.epoch
        try:
            vectors = await self._send(server, call, deadline)
        except InferenceFailed as error:
            if error.code == WRONG and server.mark_suspect(call.encoder):
                self._doubted.add(call.encoder)
            raise
        server.unused.pop(call.encoder, None)
        if server.epoch != epoch or call.encoder not in server.verified:
            # The answer may come from another server than the verified one.
            raise ElsewhereError("the connection to the inference server was lost")
        return vectors

    async def _check(self, server: Server, encoder: Encoder, deadline: float) -> bool:
        """Verify an encoder, unless Triton's statistics show that its last golden vector holds.

        Return whether the encoder is asleep, and so was not checked.
        """
        rows = (await self._control.rows(server, encoder.model)).get(encoder.version)
        last = server.unused.get(encoder)
        if rows is not None and last is not None and server.trusts(encoder) and last.holds(rows):
            return False
        if rows is None and await self._sleeps(server, encoder):
            return True
        try:
            await self._verify(server, encoder, deadline, again=True)
        except NotServedError:
            if await self._sleeps(server, encoder):  # since the look at its rows
                return True
            raise
        if rows is not None:  # and with the golden vector, one more
            # Golden vectors would keep awake what nobody uses.
            until = math.inf if self._wakes else now() + UNUSED_S
            server.unused[encoder] = Unused(until, rows + 1)
        return False

    async def _sleeps(self, server: Server, encoder: Encoder) -> bool:
        if not self._wakes:
            return False
        if not await self._control.asleep(server, encoder.model, encoder.version):
            return False
        server.unused.pop(encoder, None)  # another gateway may have it loaded, and use it
        return True

    async def _verify(
        self, server: Server, encoder: Encoder, deadline: float, *, again: bool = False
    ) -> None:
        name = encoder.model
        async with _held(server.verifying[encoder], deadline):
            if not again and server.trusts(encoder):
                return
            if not again and now() < server.wrong.get(encoder, 0.0):
                raise ElsewhereError(f"{name}: its golden vector was wrong a moment ago", WRONG)
            epoch, golden = server.epoch, encoder.golden()
            try:
                [vector] = await self._send(server, Call(encoder, golden.batch), deadline)
            except InferenceFailed as error:
                logger.error("golden vector: %s", error.message)
                if error.code == WRONG:
                    raise self._wrong(server, encoder, error.message) from error
                server.mark_wrong(encoder, now() + WRONG_S)
                raise ElsewhereError(f"{name} fails on the inference server") from error
            cosine = cosine_to(golden, vector)
            if cosine < golden.min_cosine:
                raise self._wrong(server, encoder, differs(name, cosine))
            if server.epoch != epoch:
                raise ElsewhereError("the connection to the inference server was lost")
            server.mark_verified(encoder)

    def _wrong(self, server: Server, encoder: Encoder, message: str) -> "ElsewhereError":
        if encoder in server.verified:
            self._doubted.add(encoder)
        server.mark_wrong(encoder, now() + WRONG_S)
        return ElsewhereError(message, WRONG)

    async def _send(self, server: Server, call: Call, deadline: float) -> Vectors:
        if call.bulk and deadline - now() > BULK_WAIT_S:
            try:
                return await self._ask(server, call, deadline, BULK_WAIT_S)
            except PassedError:
                call = replace(call, bulk=False)
        try:
            return await self._ask(server, call, deadline, deadline - now())
        except PassedError as error:
            raise DeadlineExceeded(LATE) from error

    async def _ask(self, server: Server, call: Call, deadline: float, wait_s: float) -> Vectors:
        """Send a call. Raises PassedError: Triton did not run it within `wait_s`."""
        begin = now()
        within, wait_s = max(LEAST_S, deadline - begin), max(LEAST_S, wait_s)
        metadata = (("traceparent", call.traceparent),) if call.traceparent else ()
        try:
            with server.working(), detect_closing():
                response = await server.stub.ModelInfer(
                    infer_request(call, wait_s), timeout=within, metadata=metadata
                )
        except ClosedError as error:
            raise ElsewhereError("the connection to the inference server was closed") from error
        except grpc.aio.AioRpcError as error:
            failure = await translated(error, server, call, within)
            if isinstance(failure, Overloaded) and now() - begin >= wait_s:
                raise PassedError from error
            raise failure from error
        server.record_answer()
        return checked(output(response), call)


@asynccontextmanager
async def _held(lock: asyncio.Lock, deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            await lock.acquire()
    except TimeoutError:
        raise DeadlineExceeded(LATE) from None
    try:
        yield
    finally:
        lock.release()
