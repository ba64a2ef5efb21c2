"""`grpc.health.v1`: serving only while right answers can be given."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.errors import quoted
from gateway.operations.readiness import Readiness
from gateway.pipeline.concurrency import comes

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
        told = None
        while True:
            draining = self._draining.is_set()
            status = await self._status(request.service)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if draining:
                return
            await comes(self._draining, WATCH_S)

    async def _status(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        name, _, model_id = service.partition("/")
        if name not in self._services or (model_id and not name):
            return _UNKNOWN
        if self._draining.is_set():
            return _NOT_SERVING
        states = await self._readiness.states()
        if not model_id:
            ready = not self._readiness.verdict(states)
        elif model_id in states:
            ready = states[model_id].ready
        else:
            return _UNKNOWN
        return _SERVING if ready else _NOT_SERVING
