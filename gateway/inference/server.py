"""One Triton: its connection, its circuit breaker, and the loading of models.

The breaker opens after several failures in a row: calls whose connection broke, or unanswered
probes of a server that has work and is silent. While it is open the server gets no call, only one
probe at a time; the first answer closes the breaker.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import Unavailable
from gateway.inference.secret import METADATA, Secret, SecretError

FAILURES = 3  # in a row; then the breaker opens
SILENT_S = 1.0  # a server with work is probed after this time without an answer
PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 1.0

# Fast reconnects: with gRPC's default back-off, a restarted Triton would stay unused for minutes.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # in fact the timeout of one attempt
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
    """The channel was closed during a call: no address names its server any more."""


@contextmanager
def detect_closing() -> Iterator[None]:
    """Around a call: turns the closing of its channel into an error.

    gRPC cancels a call whose channel closes, just as if the calling task were cancelled.

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
class Unused:
    """An encoder's last right golden vector, where no call has used the encoder since.

    Attributes:
        until: When the golden vector is due again, whatever Triton reports.
        rows: The least number of rows that Triton has run; it starts at 0 when a model is loaded.
    """

    until: float
    rows: int

    def holds(self, rows: int) -> bool:
        """Whether the golden vector still says which model is loaded, as Triton ran `rows`."""
        loaded_anew = rows < self.rows
        self.rows = max(self.rows, rows)
        return not loaded_anew and _now() < self.until


@dataclass(slots=True)
class Server:
    """One Triton: its channel, its calls under way, and whether it answers.

    Attributes:
        inflight: The number of calls under way.
        failures: The number of failures in a row.
        open: Whether the breaker is open.
        epoch: Changes when the connection is lost, and with it all that was verified.
        verified: Encoders whose golden vector came back right over this connection.
        wrong: Encoders whose golden vector came back wrong, and until when they stay refused.
        suspect: Verified encoders that answered a call with an output that cannot be theirs, and
            whose golden vector has not been checked since.
        suspected: Encoders that did so at any time over this connection.
        unused: Verified encoders that no call has used since.
    """

    address: str  # host:port, the host an IP address
    on_breaker: Callable[[], None]  # called when the breaker opens or closes
    inflight: int = 0
    failures: int = 0
    open: bool = False
    epoch: int = 0
    verified: set[Hashable] = field(default_factory=set)
    wrong: dict[Hashable, float] = field(default_factory=dict)
    suspect: set[Hashable] = field(default_factory=set)
    suspected: set[Hashable] = field(default_factory=set)
    unused: dict[Hashable, "Unused"] = field(default_factory=dict)
    verifying: dict[Hashable, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    channel: grpc.aio.Channel = field(init=False)
    stub: service_pb2_grpc.GRPCInferenceServiceStub = field(init=False)
    _silent_since: float | None = None  # since when it has work and has not answered
    _doubted: bool = False  # the connection was lost, and no answer came since
    _tasks: list[asyncio.Task[None]] = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._follow())]

    def connected(self) -> bool:
        """Whether the channel is connected; if not, makes gRPC try."""
        state = self.channel.get_state(try_to_connect=True)
        return bool(state == grpc.ChannelConnectivity.READY)

    @contextmanager
    def working(self) -> Iterator["Server"]:
        """Counts a call as under way during the block."""
        self._silent_since = self._silent_since or _now()
        self.inflight += 1
        try:
            yield self
        finally:
            self.inflight -= 1

    def answered(self) -> None:
        """Records an answer, which may be an error."""
        self.failures = 0
        self._doubted = False
        self._silent_since = _now() if self.inflight else None
        if self.open:
            self.open = False
            self.on_breaker()
            logger.info("Triton at %s answers again", self.address)

    def failed(self) -> None:
        """Records a call or a probe without an answer."""
        self.failures += 1
        if self.failures >= FAILURES and not self.open:
            self.open = True
            self.on_breaker()
            logger.warning("Triton at %s does not answer; it is left alone", self.address)

    def lost(self) -> None:
        """Forgets what was verified: another server may be behind the next connection."""
        self.epoch += 1
        self._doubted = True
        self.verified.clear()
        self.wrong.clear()
        self.suspect.clear()
        self.suspected.clear()
        self.unused.clear()

    def trusts(self, encoder: Hashable) -> bool:
        """Whether an encoder may be used without a check of its golden vector."""
        return encoder in self.verified and encoder not in self.suspect

    def passes(self, encoder: Hashable) -> None:
        """Records that an encoder's golden vector came back right."""
        self.wrong.pop(encoder, None)
        self.suspect.discard(encoder)
        self.verified.add(encoder)

    def fails(self, encoder: Hashable, until: float) -> None:
        """Records that an encoder's golden vector did not come back right."""
        self.verified.discard(encoder)
        self.unused.pop(encoder, None)
        self.wrong[encoder] = until

    def suspects(self, encoder: Hashable) -> bool:
        """Records an output that cannot be an encoder's; returns whether it is the first.

        Only the first counts. Otherwise a client whose inputs cause such outputs could have
        all cached vectors encoded again at will.
        """
        first = encoder not in self.suspected
        self.suspect.add(encoder)
        self.suspected.add(encoder)
        return first

    async def close(self, grace_s: float | None = None) -> None:
        """Closes the connection; calls under way get `grace_s` seconds."""
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
REASON = 300  # characters of Triton's message in ours
SETTLE_S = 2.0  # for a version to become ready after Triton reported the model as loaded


async def load(server: Server, model: str, version: int, within: float, secret: Secret) -> None:
    """Loads a model into a server; returns when it serves this version.

    In the mode `explicit` Triton loads the model on request. In the mode `poll` it refuses, and
    finds the version by itself: call again later.

    Raises:
        Unavailable: The server does not serve the version; the message says why.
    """
    if await _ready(server, model, version):
        return
    request = service_pb2.RepositoryModelLoadRequest(model_name=model)
    try:
        with server.working(), detect_closing():
            await server.stub.RepositoryModelLoad(
                request, timeout=within, metadata=secret.metadata()
            )
    except SecretError as error:
        raise Unavailable(f"{model}: {error}") from error
    except grpc.aio.AioRpcError as error:
        why = " ".join((error.details() or "").split())[:REASON]  # it may hold a traceback
        hint = secret.hint() if METADATA in why else ""  # Triton names the metadata that is missing
        raise Unavailable(f"{model}: Triton at {server.address}: {why}{hint}") from error
    except ClosedError as error:
        raise Unavailable(f"{model}: Triton at {server.address} is not named any more") from error
    for _ in range(round(SETTLE_S / POLL_S)):
        if await _ready(server, model, version):
            return
        await asyncio.sleep(POLL_S)
    raise Unavailable(f"{model}: Triton at {server.address} has no version {version}")


async def rows_run(server: Server, model: str, version: int, secret: Secret) -> int | None:
    """The number of rows that a model has run since it was loaded; None if Triton does not say."""
    request = service_pb2.ModelStatisticsRequest(name=model, version=str(version))
    try:
        with detect_closing():
            answer = await server.stub.ModelStatistics(
                request, timeout=PROBE_TIMEOUT_S, metadata=secret.metadata()
            )
    except (grpc.aio.AioRpcError, ClosedError, SecretError):
        return None
    return answer.model_stats[0].inference_count if answer.model_stats else None


async def _ready(server: Server, model: str, version: int) -> bool:
    request = service_pb2.ModelReadyRequest(name=model, version=str(version))
    try:
        with detect_closing():
            return bool((await server.stub.ModelReady(request, timeout=SETTLE_S)).ready)
    except (grpc.aio.AioRpcError, ClosedError):
        return False
