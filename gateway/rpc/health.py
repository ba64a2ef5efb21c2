"""`grpc.health.v1`, serving only while right answers can be given, and reflection.

Both are open without a key. Their messages are small, and read only as far as that.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_ALPHA
from grpc_reflection.v1alpha.reflection import aio

from gateway.errors import GatewayError, quoted
from gateway.operations.readiness import Readiness
from gateway.pipeline.concurrency import comes
from gateway.rpc.calls import serialized
from gateway.rpc.descriptors import POOL, REFLECTION
from gateway.rpc.incoming import Context, Incoming
from gateway.rpc.problems import STATUS

WATCH_S = 1.0  # how often a watched service is looked at
MOST_WATCHES = 512  # under way

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # has no types
    """Answers from `Readiness` when asked, so that nothing runs while nobody asks."""

    def __init__(
        self, services: tuple[str, ...], readiness: Readiness, draining: asyncio.Event
    ) -> None:
        """Takes the names of the services; the empty one is the whole server.

        Each of them has a service for every served model as well, `<service>/<model id>`.
        """
        self._services = {"", *services}
        self._readiness = readiness
        self._draining = draining
        self._watches: dict[asyncio.Timeout, None] = {}

    async def Check(  # noqa: N802 - the proto's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The state of a service now; NOT_FOUND where there is none of this name."""
        status = await self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no service {quoted(request.service)} is served here"
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the proto's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """The state of a service now, and again whenever it changes, until the server drains.

        Where too many watch, who has watched longest is sent away, and may come again.
        """
        self._watches[watch := asyncio.timeout(None)] = None
        try:
            async with watch:
                if len(self._watches) > MOST_WATCHES:
                    longest = next(iter(self._watches))
                    del self._watches[longest]
                    longest.reschedule(0)
                await self._watch(request, context)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many watch, this one the longest")
        finally:
            self._watches.pop(watch, None)

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        sent = None
        while True:
            draining = self._draining.is_set()
            status = await self._status(request.service)
            if status != sent:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
            if draining:
                return
            await comes(self._draining, WATCH_S)

    async def _status(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        name, _, model_id = service.partition("/")
        if name not in self._services or (model_id and not name):
            return _UNKNOWN
        states = {} if self._draining.is_set() else await self._readiness.states()
        if self._draining.is_set():
            return _NOT_SERVING
        if not model_id:
            ready = not self._readiness.verdict(states)
        elif model_id in states:
            ready = states[model_id].ready
        else:
            return _UNKNOWN
        return _SERVING if ready else _NOT_SERVING


MOST_BYTES = 2**12

Q = TypeVar("Q", bound=Message)


def health_and_reflection(
    health: Health, incoming: Incoming, *names: str
) -> tuple[grpc.GenericRpcHandler, ...]:
    """Health, and reflection of it, of itself and of the services of these names."""

    async def read(schema: type[Q], context: Context) -> Q | None:
        """The next message of a call; None when there is none. What is wrong ends the call."""
        invalid, name = grpc.StatusCode.INVALID_ARGUMENT, schema.DESCRIPTOR.full_name
        try:
            data = await incoming.read(context, known=False)
        except GatewayError as error:
            await context.abort(STATUS[type(error)], error.message)
        if data is None:
            return None
        if len(data) > MOST_BYTES:
            await context.abort(invalid, f"a {name} may have {MOST_BYTES:,} bytes at most")
        message = schema()
        try:
            message.ParseFromString(data)
        except DecodeError:
            await context.abort(invalid, f"the message is not a valid {name}")
        return message

    def of_one(answer: Callable[[Any, Context], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answered(messages: object, context: Context) -> Any:  # noqa: ANN401 - any or none
            message = await read(health_pb2.HealthCheckRequest, context)
            if message is None:
                invalid = grpc.StatusCode.INVALID_ARGUMENT
                await context.abort(invalid, "the call ended without a message")
            return await answer(message, context)

        return answered

    async def info(messages: object, context: Context) -> AsyncIterator[Message]:
        async def asked() -> AsyncIterator[Message]:
            while (
                message := await read(reflection_pb2.ServerReflectionRequest, context)
            ) is not None:
                yield message

        async for response in reflection.ServerReflectionInfo(asked(), context):
            yield response

    reflection = aio.ReflectionServicer((*names, HEALTH, REFLECTION, REFLECTION_ALPHA), pool=POOL)
    # All take streams, of which nothing is read but by `read`.
    unary, stream = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    checks = {
        "Check": unary(of_one(health.Check), None, serialized),
        "Watch": stream(of_one(health.Watch), None, serialized),
    }
    reflects = {"ServerReflectionInfo": stream(info, None, serialized)}
    services = {HEALTH: checks, REFLECTION: reflects, REFLECTION_ALPHA: reflects}
    return tuple(
        grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()
    )
