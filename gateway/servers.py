"""The Tritons behind the gateway: found by name, balanced by load, left alone while silent.

Each has a breaker. It opens after so many failures in a row: calls whose line broke, or probes
that were not answered by a server that is silent while it has work. From then on no call goes
there, only one probe at a time; the first that is answered closes the breaker.
"""

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

RESOLVE_S = 5.0  # how often names are looked up again
FAILURES = 3  # in a row, that open a breaker
SILENT_S = 1.0  # after so long without an answer a server with work is probed
PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 1.0

# Reconnects fast: gRPC's own back-off would leave a Triton that came back alone for two minutes.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
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

Told = Callable[[int, int], None]
Lookup = Callable[[str], Awaitable[set[str]]]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """One Triton: a channel to it, how many calls it is working on, and whether it answers.

    Attributes:
        epoch: Changes when the connection is lost; what is known of the server ends with it.
        verified: Encoders whose golden vector came back right over this very connection.
        wrong: Encoders whose golden vector did not, and until when that is taken for granted.
    """

    address: str  # host:port, the host an IP address
    turned: Callable[[], None]  # told when the breaker opens or closes
    inflight: int = 0
    failures: int = 0  # in a row
    open: bool = False
    epoch: int = 0
    verified: set[Hashable] = field(default_factory=set)
    wrong: dict[Hashable, float] = field(default_factory=dict)
    verifying: asyncio.Lock = field(default_factory=asyncio.Lock)
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
            self.turned()
            logger.info("Triton at %s answers again", self.address)

    def failed(self) -> None:
        """A call or a probe came to nothing."""
        self.failures += 1
        if self.failures >= FAILURES and not self.open:
            self.open = True
            self.turned()
            logger.warning("Triton at %s does not answer; it is left alone", self.address)

    def lost(self) -> None:
        """The connection broke: whatever stands behind the next one is not known."""
        self.epoch += 1
        self._doubted = True
        self.verified.clear()
        self.wrong.clear()

    def fails(self, tower: Hashable, until: float) -> None:
        """An encoder's golden vector did not come back right."""
        self.verified.discard(tower)
        self.wrong[tower] = until

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


class Servers:
    """The set of Tritons, kept up to date with what their names resolve to."""

    def __init__(
        self,
        addresses: Sequence[str],
        told: Told = lambda answering, broken: None,
        lookup: Lookup | None = None,
    ) -> None:
        """Begins to resolve; must be made inside the running event loop.

        Args:
            addresses: `host:port` each; a host name may stand for several servers.
            told: Told of each change: how many servers answer, and how many breakers are open.
            lookup: The addresses that one of these stands for; None asks the system's resolver.
        """
        self._addresses = addresses
        self._told = told
        self._lookup = lookup or _lookup
        self._servers: dict[str, Server] = {}
        self._closing: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._resolved = asyncio.Event()
        self._resolving = asyncio.create_task(self._keep_resolving())

    def __len__(self) -> int:
        return len(self._servers)

    def broken(self) -> bool:
        """Whether there are servers, and none of them answers."""
        return bool(self._servers) and all(each.open for each in self._servers.values())

    async def all(self) -> list[Server]:
        """Every server that answers, as far as is known."""
        await self._resolved.wait()
        return [server for server in self._servers.values() if not server.open]

    async def pick(self, without: Server | None = None) -> Server | None:
        """The server with the least to do, connected ones first; None if no other answers."""
        candidates = [server for server in await self.all() if server is not without]
        return min(candidates, key=lambda s: (not s.connected(), s.inflight), default=None)

    async def close(self) -> None:
        """Closes every connection."""
        self._resolving.cancel()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def _keep_resolving(self) -> None:
        fixed = all(_is_ip(address) for address in self._addresses)
        while True:
            await self._resolve()
            self._resolved.set()
            if fixed:
                return
            await asyncio.sleep(RESOLVE_S)

    async def _resolve(self) -> None:
        found: set[str] = set()
        for address in self._addresses:
            try:
                found |= await self._lookup(address)
            except OSError as error:
                logger.warning("Triton at %s: %s", address, error.strerror or error)
                return  # a name server that is away must not cost the servers that are known
        for address in found - self._servers.keys():
            self._servers[address] = Server(address, self._turned)
        for address in self._servers.keys() - found:
            gone = self._servers.pop(address)
            logger.info("Triton at %s is no longer named", address)
            # Calls in progress end as they would; only then the connection goes.
            closing = asyncio.create_task(gone.close(grace_s=60))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._turned()

    def _turned(self) -> None:
        broken = sum(server.open for server in self._servers.values())
        self._told(len(self._servers) - broken, broken)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _split(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(_split(address)[0])
    except ValueError:
        return False
    return True


async def _lookup(address: str) -> set[str]:
    if _is_ip(address):
        return {address}
    host, port = _split(address)
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=1)  # SOCK_STREAM
    hosts = {str(info[4][0]) for info in found}
    return {f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts}
