"""Failed calls of a Triton: what each of gRPC's statuses means."""

import grpc

from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, Overloaded, Unavailable
from gateway.inference.client import LATE, Call
from gateway.inference.server import Server

READY_S = 1.0  # for Triton to say whether it serves a model
RETRY_S = 1.0  # `retry-after` while no Triton answers; each is probed more often

_GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class PassedError(Exception):
    """A call's time in Triton's queue is over. Triton says so by the status of a full queue."""


class ElsewhereError(Exception):
    """This server cannot run the call; another may."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.unavailable = Unavailable(message, code=code, retry_after_s=RETRY_S)


class NotServedError(Exception):
    """This server does not have the encoder."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.unavailable = Unavailable(f"the inference server does not serve {model}")


async def translated(
    error: grpc.aio.AioRpcError, server: Server, call: Call, within: float
) -> GatewayError | ElsewhereError | NotServedError:
    """What a failed call means; `within` is the time that it had, in seconds."""
    status, name = error.code(), call.encoder.model
    if status == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(LATE)
    if status not in _GONE:
        server.record_answer()
    if status == grpc.StatusCode.NOT_FOUND:
        server.verified.discard(call.encoder)
        return NotServedError(name)
    if status in _GONE:
        # UNAVAILABLE means a full queue, a model that is not loaded, or a broken connection. The
        # channel's state shows the last, and Triton's answer about the model the others.
        ready = None
        if server.connected():
            ready = await server.ready(name, call.encoder.version, min(within, READY_S))
        if ready is None:
            server.record_failure()
            server.forget_connection()
            return ElsewhereError("the inference server cannot be reached")
        if ready:
            return Overloaded("the inference server's queue is full")
        server.verified.discard(call.encoder)
        return NotServedError(name)
    return InferenceFailed(
        f"Triton at {server.address}, {name} version {call.encoder.version}: "
        f"{status.name}: {error.details()}"
    )
