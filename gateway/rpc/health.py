"""`grpc.health.v1`, serving only while right answers can be given, and reflection.

Both are open without a key. Their messages are small, and read only as far as that.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_ALPHA
from grpc_reflection.v1alpha.reflection import aio

from gateway.errors import GatewayError, TooLarge, quoted
from gateway.operations.readiness import Readiness, State
from gateway.pipeline.concurrency import comes
from gateway.rpc.calls import parsed, serialized
from gateway.rpc.descriptors import POOL, REFLECTION, HealthListRequest, HealthListResponse
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
        """Take the names of the services; the empty one is the whole server.

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

    async def List(  # noqa: N802 - the proto's name
        self, request: Message, context: grpc.aio.ServicerContext
    ) -> Any:  # noqa: ANN401 - a HealthListResponse
        """The states of all services now, those of each model included."""
        states = await self._readiness.states()
        response: Any = HealthListResponse()
        for service in self._services:
            response.statuses[service].status = self._status_in(states, "")
            for model_id in states if service else ():
                of_model = response.statuses[f"{service}/{model_id}"]
                of_model.status = self._status_in(states, model_id)
        return response

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
        if self._draining.is_set():
            return _NOT_SERVING
        return self._status_in(await self._readiness.states(), model_id)

    def _status_in(
        self, states: Mapping[str, State], model_id: str
    ) -> "health_pb2.HealthCheckResponse.ServingStatus":
        """Of a model, or with an empty id of the whole service."""
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
    check_request, reflected = health_pb2.HealthCheckRequest, reflection_pb2.ServerReflectionRequest
    reflection = aio.ReflectionServicer((*names, HEALTH, REFLECTION, REFLECTION_ALPHA), pool=POOL)
    check = _of_one(check_request, incoming, health.Check)
    listed = _of_one(HealthListRequest, incoming, health.List)
    watch = _of_one(check_request, incoming, health.Watch)
    info = _of_many(reflected, incoming, reflection.ServerReflectionInfo)
    # All take streams, of which nothing is read but by `_read`.
    methods = {
        "Check": grpc.stream_unary_rpc_method_handler(check, None, serialized),
        "List": grpc.stream_unary_rpc_method_handler(listed, None, serialized),
        "Watch": grpc.stream_stream_rpc_method_handler(watch, None, serialized),
    }
    reflects = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info, None, serialized)
    }
    return (
        grpc.method_handlers_generic_handler(HEALTH, methods),
        grpc.method_handlers_generic_handler(REFLECTION, reflects),
        grpc.method_handlers_generic_handler(REFLECTION_ALPHA, reflects),
    )


async def _read(schema: type[Q], incoming: Incoming, context: Context) -> Q | None:
    """The next message, a small one; None when there is none. A wrong one ends the call."""
    try:
        data = await incoming.read(context, known=False)
        if data is None:
            return None
        if len(data) > MOST_BYTES:
            name = schema.DESCRIPTOR.full_name
            raise TooLarge(f"a {name} may have {MOST_BYTES:,} bytes at most")
        return parsed(schema, data)
    except GatewayError as error:
        await context.abort(STATUS[type(error)], error.message)
        raise AssertionError("unreachable: `abort` raises") from None


def _of_one(
    schema: type[Q], incoming: Incoming, answer: Callable[[Q, Context], Awaitable[Any]]
) -> Callable[[object, Context], Awaitable[Any]]:
    async def answered(messages: object, context: Context) -> Any:  # noqa: ANN401 - one or none
        message = await _read(schema, incoming, context)
        if message is None:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a message"
            )
            return None
        return await answer(message, context)

    return answered


def _of_many(
    schema: type[Q],
    incoming: Incoming,
    answer: Callable[[AsyncIterator[Q], Context], AsyncIterator[Message]],
) -> Callable[[object, Context], AsyncIterator[Message]]:
    async def answered(messages: object, context: Context) -> AsyncIterator[Message]:
        async def read() -> AsyncIterator[Q]:
            while (message := await _read(schema, incoming, context)) is not None:
                yield message

        async for response in answer(read(), context):
            yield response

    return answered
