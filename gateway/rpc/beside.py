"""The services beside our own, health and reflection, which take names alone.

They are open without a key, and gRPC would read and parse their messages of whatever size.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import aio

from gateway.errors import GatewayError
from gateway.rpc.calls import serialized
from gateway.rpc.health import Health
from gateway.rpc.incoming import Context, Incoming
from gateway.rpc.problems import STATUS

MOST_BYTES = 2**12

Q = TypeVar("Q", bound=Message)


def beside(health: Health, incoming: Incoming, *names: str) -> tuple[grpc.GenericRpcHandler, ...]:
    """Health, and reflection of it, of itself and of the services of these names."""
    asked, reflected = health_pb2.HealthCheckRequest, reflection_pb2.ServerReflectionRequest
    reflection = aio.ReflectionServicer((*names, HEALTH, REFLECTION))
    check = _of_one(_Small(asked, incoming), health.Check)
    watch = _of_one(_Small(asked, incoming), health.Watch)
    info = _of_many(_Small(reflected, incoming), reflection.ServerReflectionInfo)
    # All take streams, of which nothing is read but by `_Small`.
    return (
        grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.stream_unary_rpc_method_handler(check, None, serialized),
                "Watch": grpc.stream_stream_rpc_method_handler(watch, None, serialized),
            },
        ),
        grpc.method_handlers_generic_handler(
            REFLECTION,
            {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info, None, serialized)},
        ),
    )


class _Small(Generic[Q]):
    """Reads messages that are small."""

    def __init__(self, schema: type[Q], incoming: Incoming) -> None:
        self._schema = schema
        self._incoming = incoming

    async def read(self, context: Context) -> Q | None:
        """The next one; None when there is none. What is wrong with it ends the call."""
        invalid, name = grpc.StatusCode.INVALID_ARGUMENT, self._schema.DESCRIPTOR.full_name
        try:
            data = await self._incoming.read(context, known=False)
        except GatewayError as error:
            await context.abort(STATUS[type(error)], error.message)
        if data is None:
            return None
        if len(data) > MOST_BYTES:
            await context.abort(invalid, f"a {name} may have {MOST_BYTES:,} bytes at most")
        message = self._schema()
        try:
            message.ParseFromString(data)
        except DecodeError:
            await context.abort(invalid, f"the message is not a valid {name}")
        return message


def _of_one(
    small: _Small[Q], answer: Callable[[Q, Context], Awaitable[Any]]
) -> Callable[[object, Context], Awaitable[Any]]:
    async def answered(messages: object, context: Context) -> Any:  # noqa: ANN401 - one or none
        message = await small.read(context)
        if message is None:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a message"
            )
            return None
        return await answer(message, context)

    return answered


def _of_many(
    small: _Small[Q], answer: Callable[[AsyncIterator[Q], Context], AsyncIterator[Message]]
) -> Callable[[object, Context], AsyncIterator[Message]]:
    async def answered(messages: object, context: Context) -> AsyncIterator[Message]:
        async def read() -> AsyncIterator[Q]:
            while (message := await small.read(context)) is not None:
                yield message

        async for response in answer(read(), context):
            yield response

    return answered
