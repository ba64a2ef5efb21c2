"""Turns calls without a key away before gRPC reads their message."""

from collections.abc import Awaitable, Callable

import grpc

from gateway.access.access import Access
from gateway.errors import GatewayError, Unauthenticated
from gateway.rpc.calls import Calls, authorization

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Looks at the keys of one service's calls; other services are open."""

    def __init__(self, service: str, access: Access, calls: Calls) -> None:
        self._prefix = f"/{service}/"
        self._access = access
        self._calls = calls

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        try:
            self._access.check(authorization(handler_call_details.invocation_metadata))
        except GatewayError:
            # Of whatever kind the method is, a stream is refused: its handler runs at once.
            return grpc.stream_stream_rpc_method_handler(self._refusal(method))
        return handler

    def _refusal(
        self, method: str
    ) -> Callable[[object, grpc.aio.ServicerContext], Awaitable[None]]:
        async def refuse(messages: object, context: grpc.aio.ServicerContext) -> None:
            async with self._calls.answering(context, method.removeprefix(self._prefix)):
                raise Unauthenticated("the API key was not known when the call came in")

        return refuse
