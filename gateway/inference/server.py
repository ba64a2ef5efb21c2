"""One Triton behind the gateway: its connection, its breaker, and the models it is asked to load.

The breaker opens after several failures in a row: calls whose connection broke, or probes that a
silent server with work did not answer. From then on no call goes there, only one probe at a time;
the first that is answered closes the breaker.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import Unavailable
from gateway.inference.secret import METADATA, Secret, SecretError

FAILURES = 3  # in a row, that open a breaker
SILENT_S = 1.0  # after so long without an answer a server with work is probed
PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 1.0

# Reconnects fast: gRPC's own back-off would leave a Triton that came back alone for two minutes.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # in truth how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 64 * 2**20),
]
UNANSWERED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
_DOWN = {grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.TRANSIENT_FAILURE}

logger = logging.getLogger(__name__)


class ClosedError(Exception):
    """The channel was closed beneath a call: its server's name stands for it no more."""


@contextmanager
def detect_closing() -> Iterator[None]:
    """Around a call: tells the end of its channel from that of its task.

    gRPC cancels a call whose channel is closed, as if somebody had cancelled who awaits it.

    Raises:
        ClosedError: The channel was closed.
    """
    try:
        yield
    except grpc.aio.UsageError as error:
        raise ClosedError from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClosedError from error


@dataclass(slots=True)
class Server:
    """One Triton: a channel to it, how many calls it is working on, and whether it answers.

    Attributes:
        epoch: Changes when the connection is lost; what is known of the server ends with it.
        verified: Encoders whose golden vector came back right over this very connection.
        wrong: Encoders whose golden vector did not, and until when that is taken for granted.
        suspect: Verified encoders that answered a call with what cannot be their vectors, and
            whose golden vector was not asked for since.
        suspected: Encoders that did so at any time over this connection.
    """

    address: str  # host:port, the host an IP address
    on_breaker: Callable[[], None]  # called when the breaker opens or closes
    inflight: int = 0
    failures: int = 0  # in a row
    open: bool = False
    epoch: int = 0
    verified: set[Hashable] = field(default_factory=set)
    wrong: dict[Hashable, float] = field(default_factory=dict)
    suspect: set[Hashable] = field(default_factory=set)
    suspected: set[Hashable] = field(default_factory=set)
    verifying: dict[Hashable, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    channel: grpc.aio.Channel = field(init=False)
    stub: service_pb2_grpc.GRPCInferenceServiceStub = field(init=False)
    _silent_since: float | None = None  # when it was given the work that it has not answered
    _doubted: bool = False  # the connection was lost, and nothing was heard since
    _tasks: list[asyncio.Task[None]] = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._follow())]

    def connected(self) -> bool:
        """Whether the connection stands; where it does not, this makes gRPC try."""
        state = self.channel.get_state(try_to_connect=True)
        return bool(state == grpc.ChannelConnectivity.READY)

    @asynccontextmanager
    async def working(self) -> AsyncIterator["Server"]:
        """Counts a call while it lasts."""
        self._silent_since = self._silent_since or _now()
        self.inflight += 1
        try:
            yield self
        finally:
            self.inflight -= 1

    def answered(self) -> None:
        """An answer came, be it an error."""
        self.failures = 0
        self._doubted = False
        self._silent_since = _now() if self.inflight else None
        if self.open:
            self.open = False
            self.on_breaker()
            logger.info("Triton at %s answers again", self.address)

    def failed(self) -> None:
        """A call or a probe came to nothing."""
        self.failures += 1
        if self.failures >= FAILURES and not self.open:
            self.open = True
            self.on_breaker()
            logger.warning("Triton at %s does not answer; it is left alone", self.address)

    def lost(self) -> None:
        """The connection broke: whatever stands behind the next one is not known."""
        self.epoch += 1
        self._doubted = True
        self.verified.clear()
        self.wrong.clear()
        self.suspect.clear()
        self.suspected.clear()

    def trusts(self, encoder: Hashable) -> bool:
        """Whether an encoder may be used without its golden vector being asked for first."""
        return encoder in self.verified and encoder not in self.suspect

    def passes(self, encoder: Hashable) -> None:
        """An encoder's golden vector came back right."""
        self.wrong.pop(encoder, None)
        self.suspect.discard(encoder)
        self.verified.add(encoder)

    def fails(self, encoder: Hashable, until: float) -> None:
        """An encoder's golden vector did not come back right."""
        self.verified.discard(encoder)
        self.wrong[encoder] = until

    def suspects(self, encoder: Hashable) -> bool:
        """An encoder answered with what cannot be its vectors; returns whether for the first time.

        Later times are no news: where inputs that a client chose bring them about, that client
        could have everything encoded again at will.
        """
        first = encoder not in self.suspected
        self.suspect.add(encoder)
        self.suspected.add(encoder)
        return first

    async def close(self, grace_s: float | None = None) -> None:
        """Closes the connection; calls in progress get the grace."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.channel.close(grace_s)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            since = self._silent_since
            silent = since is not None and _now() - since > SILENT_S
            if self.open or self.failures or self._doubted or silent:
                await self._probe()

    async def _probe(self) -> None:
        try:
            await self.stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in UNANSWERED:
                self.failed()
                return
        self.answered()

    async def _follow(self) -> None:
        last = self.channel.get_state()
        while True:
            await self.channel.wait_for_state_change(last)
            state = self.channel.get_state()
            if last == grpc.ChannelConnectivity.READY or state in _DOWN:
                self.lost()
            last = state


def _now() -> float:
    return asyncio.get_running_loop().time()


POLL_S = 0.2
REASON = 300  # characters of what Triton says
SETTLE_S = 2.0  # for a version to be ready after Triton has said that it loaded the model


async def loaded(server: Server, model: str, version: int, within: float, secret: Secret) -> None:
    """Returns when the server serves this version.

    Under `--model-control-mode=explicit` it is told to. In polling mode it refuses to be told,
    and finds the version by itself: ask again later.

    Raises:
        Unavailable: It does not serve it; says why.
    """
    if await _ready(server, model, version):
        return
    asked = service_pb2.RepositoryModelLoadRequest(model_name=model)
    try:
        async with server.working():
            with detect_closing():
                await server.stub.RepositoryModelLoad(
                    asked, timeout=within, metadata=secret.metadata()
                )
    except SecretError as error:
        raise Unavailable(f"{model}: {error}") from error
    except grpc.aio.AioRpcError as error:
        why = " ".join((error.details() or "").split())[:REASON]  # it may hold a traceback
        hint = secret.hint() if METADATA in why else ""  # what Triton asks for by its name
        raise Unavailable(f"{model}: Triton at {server.address}: {why}{hint}") from error
    except ClosedError as error:
        raise Unavailable(f"{model}: Triton at {server.address} is not named any more") from error
    for _ in range(round(SETTLE_S / POLL_S)):
        if await _ready(server, model, version):
            return
        await asyncio.sleep(POLL_S)
    raise Unavailable(f"{model}: Triton at {server.address} has no version {version}")


async def _ready(server: Server, model: str, version: int) -> bool:
    asked = service_pb2.ModelReadyRequest(name=model, version=str(version))
    try:
        with detect_closing():
            return bool((await server.stub.ModelReady(asked, timeout=SETTLE_S)).ready)
    except (grpc.aio.AioRpcError, ClosedError):
        return False
