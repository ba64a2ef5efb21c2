"""gRPC call -> key, request id, message, permit and deadline; errors become statuses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from traceback import clear_frames
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from gateway.access.access import Access, Account
from gateway.access.clients import by_peer
from gateway.admission.permits import Admission, Permit
from gateway.errors import GatewayError, MalformedRequest, TooLarge, Unauthenticated
from gateway.models.values import Deadline, TimeLimit
from gateway.pipeline.requests import Plan
from gateway.rpc.config import RpcConfig
from gateway.rpc.incoming import Incoming
from gateway.rpc.message_limits import Bounds
from gateway.rpc.problems import STATUS, abort, known_error
from gateway.telemetry.record import HEADER, Observer, Record, request_id

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
T = TypeVar("T")

serialized = methodcaller("SerializeToString")


@dataclass(slots=True)
class Work:
    """One call that was let in."""

    deadline: Deadline
    record: Record
    permit: Permit
    account: Account | None  # None: nobody needs a key

    async def run(self, plan: Plan[T]) -> T:
        """Take what a valid request costs, and only then work on it.

        Raises: As `Permit.charge`, as `Account.spend`, and as the plan.
        """
        self.permit.charge(plan.cost)
        if self.account:
            self.account.spend(plan.cost.items)
        return await plan.run(self.deadline)


@dataclass(slots=True)
class Calls:
    """Lets calls in: not too many, not too large, not too slow."""

    admission: Admission
    observer: Observer
    config: RpcConfig
    incoming: Incoming
    access: Access | None = None  # None: everybody may call
    bounds: Bounds = field(init=False)

    def __post_init__(self) -> None:
        self.bounds = Bounds(self.config.limits)

    def unary(
        self,
        schema: type[Q],
        answer: Callable[[Q, Work], Awaitable[A]],
        *,
        images: bool | None = None,
    ) -> grpc.RpcMethodHandler:
        """A method that takes one message and answers one; `images`: whether there are any in it.

        For grpc it is a stream, of which the first message is read here: grpc itself would read one
        of any size before anything is looked at. The bytes are parsed here too: what cannot be
        parsed is the client's mistake, which grpc would report as the server's.
        """

        async def handle(messages: object, context: grpc.aio.ServicerContext) -> A:
            operation = answer.__name__.title().replace("_", "")
            async with self.answering(context, operation) as (record, account):
                with TimeLimit(self._timeout(context)) as limit:
                    data = await self.incoming.read(context, limit)
                    if data is None:
                        raise MalformedRequest("the call ended without a message")
                    size = self.size(schema, data)
                    with self.admission.permit(size, client=record.client, images=images) as permit:
                        message = parsed(schema, data)
                        answering = answer(message, Work(limit.deadline, record, permit, account))
                        del data, message  # which an error would keep to its end
                        answered = await answering
                # The id goes with the answer: sent ahead of it, it would cost a tenth of the call.
                context.set_trailing_metadata(
                    ((HEADER, record.request_id), ("server-timing", record.server_timing))
                )
                return answered

        return grpc.stream_unary_rpc_method_handler(handle, None, serialized)

    def size(self, schema: type[Message], data: bytes) -> int:
        """How many bytes a message takes at worst until it is answered. Raises TooLarge."""
        limit = self.config.max_message_bytes
        if len(data) > limit:
            raise TooLarge(
                f"the body is over the limit (GATEWAY_MAX_BODY_BYTES) of {limit:,} bytes"
            )
        return self.bounds.takes(schema, data)

    def _timeout(self, context: grpc.aio.ServicerContext) -> float:
        left = context.time_remaining()
        return self.config.timeout_s if left is None else min(self.config.timeout_s, left)

    @asynccontextmanager
    async def answering(
        self, context: grpc.aio.ServicerContext, operation: str
    ) -> AsyncIterator[tuple[Record, Account | None]]:
        """Give a call its id and its key's quota, and end it with a status after an error."""
        metadata = context.invocation_metadata() or ()
        offered = (value for key, value in metadata if key == HEADER and isinstance(value, str))
        record = Record(
            protocol="grpc", operation=operation, request_id=request_id(offered),
            client=by_peer(context.peer()),
        )  # fmt: skip
        status = grpc.StatusCode.CANCELLED
        self.observer.begin(record, metadata)
        try:
            if self.access is None:
                yield record, None
            else:
                with self.access.entered(authorization(metadata), record) as account:
                    yield record, account
            status = grpc.StatusCode.OK
        except grpc.aio.BaseError as gone:
            # What grpc itself raises here says that the call is over.
            raise asyncio.CancelledError from gone
        except Exception as error:
            known = known_error(error, record.request_id)
            status, record.error = STATUS[type(known)], known.code
            _forget(error)
            try:
                await abort(context, known, record.request_id)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.BaseError as gone:
                raise asyncio.CancelledError from gone
        finally:
            self.observer.end(record, status.name)


def parsed(schema: type[Q], data: bytes) -> Q:
    """A message of this kind. Raises MalformedRequest: the bytes are none."""
    message = schema()
    try:
        message.ParseFromString(data)
    except DecodeError:
        name = schema.DESCRIPTOR.full_name
        raise MalformedRequest(f"the message is not a valid {name}") from None
    return message


def _forget(error: BaseException | None) -> None:
    """Let go of the frames that an error came through, which would keep what they hold."""
    while error is not None:
        clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__context__


def authorization(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[str]:
    """What a call's metadata offers as its key."""
    pairs = metadata or ()
    return [value for name, value in pairs if name == "authorization" and isinstance(value, str)]


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
            refuse = partial(self._refuse, method.removeprefix(self._prefix))
            return grpc.stream_stream_rpc_method_handler(refuse)
        return handler

    async def _refuse(
        self, operation: str, messages: object, context: grpc.aio.ServicerContext
    ) -> None:
        async with self._calls.answering(context, operation):
            raise Unauthenticated("the API key was not known when the call came in")
