"""The services beside our own, health and reflection, which take names alone.

They are open without a key and gRPC would parse their messages for them, of whatever size.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import aio

from gateway.rpc.calls import serialized
from gateway.rpc.health import Health

MOST_BYTES = 2**12

Q = TypeVar("Q", bound=Message)
Context: TypeAlias = grpc.aio.ServicerContext


def beside(health: Health, *names: str) -> tuple[grpc.GenericRpcHandler, ...]:
    """Health, and reflection of it, of itself and of the services of these names."""
    asked, reflected = health_pb2.HealthCheckRequest, reflection_pb2.ServerReflectionRequest
    reflection = aio.ReflectionServicer((*names, HEALTH, REFLECTION))
    check, watch = _of_one(asked, health.Check), _of_one(asked, health.Watch)
    info = _of_many(reflected, reflection.ServerReflectionInfo)
    return (
        grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(check, None, serialized),
                "Watch": grpc.unary_stream_rpc_method_handler(watch, None, serialized),
            },
        ),
        grpc.method_handlers_generic_handler(
            REFLECTION,
            {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info, None, serialized)},
        ),
    )


def _of_one(
    schema: type[Q], answer: Callable[[Q, Context], Awaitable[Any]]
) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def small(data: bytes, context: Context) -> Any:  # noqa: ANN401 - a message or none
        return await answer(await _parsed(schema, data, context), context)

    return small


def _of_many(
    schema: type[Q], answer: Callable[[AsyncIterator[Q], Context], AsyncIterator[Message]]
) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[Message]]:
    async def small(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message]:
        async def parsed() -> AsyncIterator[Q]:
            async for data in messages:
                yield await _parsed(schema, data, context)

        async for response in answer(parsed(), context):
            yield response

    return small


async def _parsed(schema: type[Q], data: bytes, context: Context) -> Q:
    invalid, name = grpc.StatusCode.INVALID_ARGUMENT, schema.DESCRIPTOR.full_name
    if len(data) > MOST_BYTES:
        await context.abort(invalid, f"a {name} may have {MOST_BYTES:,} bytes at most")
    message = schema()
    try:
        message.ParseFromString(data)
    except DecodeError:
        await context.abort(invalid, f"the message is not a valid {name}")
    return message
