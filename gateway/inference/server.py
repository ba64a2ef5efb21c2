"""One Triton: its connection and its circuit breaker.

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


class ClosedError(grpc.aio.AioRpcError):  # type: ignore[misc]
    """The channel was closed during a call: no address names its server any more."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.CANCELLED, details="no address names the server any more")


@contextmanager
def detect_closing() -> Iterator[None]:
    """Around a call: turn the closing of its channel into an error.

    gRPC cancels a call whose channel closes, just as if the calling task were cancelled.

    Raises:
        ClosedError: The channel was closed.
    """
    try:
        yield
    except grpc.aio.UsageError as error:
        raise ClosedError() from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClosedError() from error


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
        return not loaded_anew and now() < self.until


@dataclass(slots=True)
class Server:
    """One Triton: its channel, its calls under way, and whether it answers.

    Attributes:
        inflight: The number of calls under way.
        failures: The number of failures in a row.
        breaker_open: Whether the server is left alone, after failures.
        epoch: Changes when the connection is lost, and with it all that was verified.
        verified: Encoders whose golden vector came back right over this connection.
        wrong: Encoders whose golden vector came back wrong, and until when they stay refused.
        suspect: Verified encoders that answered a call with an output that cannot be theirs, and
            whose golden vector has not been checked since.
        suspected: Encoders that did so at any time over this connection.
        unused: Verified encoders that no call has used since.
        idle: For each encoder and version that may be unused: the number of rows that it has run,
            and of looks since then that found no more.
    """

    address: str  # host:port, the host an IP address
    on_breaker: Callable[[], None]  # called when the breaker opens or closes
    inflight: int = 0
    failures: int = 0
    breaker_open: bool = False
    epoch: int = 0
    verified: set[Hashable] = field(default_factory=set)
    wrong: dict[Hashable, float] = field(default_factory=dict)
    suspect: set[Hashable] = field(default_factory=set)
    suspected: set[Hashable] = field(default_factory=set)
    unused: dict[Hashable, Unused] = field(default_factory=dict)
    idle: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
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

    async def ready(self, model: str, version: int, within: float) -> bool | None:
        """Whether the server serves a version of a model; None where it does not say in time."""
        request = service_pb2.ModelReadyRequest(name=model, version=str(version))
        try:
            with detect_closing():
                return bool((await self.stub.ModelReady(request, timeout=within)).ready)
        except grpc.aio.AioRpcError:
            return None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a call as under way during the block."""
        self._silent_since = self._silent_since or now()
        self.inflight += 1
        try:
            yield
        finally:
            self.inflight -= 1

    def record_answer(self) -> None:
        """Record an answer, which may be an error."""
        self.failures = 0
        self._doubted = False
        self._silent_since = now() if self.inflight else None
        if self.breaker_open:
            self.breaker_open = False
            self.on_breaker()
            logger.info("Triton at %s answers again", self.address)

    def record_failure(self) -> None:
        """Record a call or a probe without an answer."""
        self.failures += 1
        if self.failures >= FAILURES and not self.breaker_open:
            self.breaker_open = True
            self.on_breaker()
            logger.warning("Triton at %s does not answer; it is left alone", self.address)

    def forget_connection(self) -> None:
        """Forget what was verified: another server may be behind the next connection."""
        self.epoch += 1
        self._doubted = True
        self.verified.clear()
        self.wrong.clear()
        self.suspect.clear()
        self.suspected.clear()
        self.unused.clear()
        self.idle.clear()

    def trusts(self, encoder: Hashable) -> bool:
        """Whether an encoder may be used without a check of its golden vector."""
        return encoder in self.verified and encoder not in self.suspect

    def mark_verified(self, encoder: Hashable) -> None:
        """Record that an encoder's golden vector came back right."""
        self.wrong.pop(encoder, None)
        self.suspect.discard(encoder)
        self.verified.add(encoder)

    def mark_wrong(self, encoder: Hashable, until: float) -> None:
        """Record that an encoder's golden vector did not come back right."""
        self.verified.discard(encoder)
        self.unused.pop(encoder, None)
        self.wrong[encoder] = until

    def mark_suspect(self, encoder: Hashable) -> bool:
        """Record an output that cannot be an encoder's; return whether it is the first.

        Only the first counts. Otherwise a client whose inputs cause such outputs could have
        all cached vectors encoded again at will.
        """
        first = encoder not in self.suspected
        self.suspect.add(encoder)
        self.suspected.add(encoder)
        return first

    async def close(self, grace_s: float | None = None) -> None:
        """Close the connection; calls under way get `grace_s` seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.channel.close(grace_s)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            since = self._silent_since
            silent = since is not None and now() - since > SILENT_S
            if self.breaker_open or self.failures or self._doubted or silent:
                await self._probe()

    async def _probe(self) -> None:
        try:
            await self.stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in UNANSWERED:
                self.record_failure()
                return
        self.record_answer()

    async def _follow(self) -> None:
        last = self.channel.get_state()
        while True:
            await self.channel.wait_for_state_change(last)
            state = self.channel.get_state()
            if last == grpc.ChannelConnectivity.READY or state in _DOWN:
                self.forget_connection()
            last = state


def now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()
