"""The Tritons behind the gateway: found by name, balanced by what each has to do."""

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2_grpc

RESOLVE_S = 5.0  # how often names are looked up again

# Reconnects fast: gRPC's own back-off would leave a Triton that came back alone for two minutes.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 64 * 2**20),
]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """One Triton: a channel to it, and how many calls it is working on."""

    address: str  # host:port, the host an IP address
    inflight: int = 0
    channel: grpc.aio.Channel = field(init=False)
    stub: service_pb2_grpc.GRPCInferenceServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def connected(self) -> bool:
        """Whether the connection stands; where it does not, this makes gRPC try."""
        state = self.channel.get_state(try_to_connect=True)
        return bool(state == grpc.ChannelConnectivity.READY)

    @asynccontextmanager
    async def working(self) -> AsyncIterator["Server"]:
        """Counts a call while it lasts."""
        self.inflight += 1
        try:
            yield self
        finally:
            self.inflight -= 1


class Servers:
    """The set of Tritons, kept up to date with what their names resolve to."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Begins to resolve; must be made inside the running event loop.

        Args:
            addresses: `host:port` each; a host name may stand for several servers.
        """
        self._addresses = addresses
        self._servers: dict[str, Server] = {}
        self._resolved = asyncio.Event()
        self._resolving = asyncio.create_task(self._keep_resolving())

    def __len__(self) -> int:
        return len(self._servers)

    async def pick(self, without: Server | None = None) -> Server | None:
        """The server with the least to do, connected ones first; None if there is no other."""
        await self._resolved.wait()
        candidates = [server for server in self._servers.values() if server is not without]
        return min(candidates, key=lambda s: (not s.connected(), s.inflight), default=None)

    async def close(self) -> None:
        """Closes every connection."""
        self._resolving.cancel()
        await asyncio.gather(*(server.channel.close() for server in self._servers.values()))

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
                found |= await _lookup(address)
            except OSError as error:
                logger.warning("Triton at %s: %s", address, error.strerror or error)
                return  # a name server that is away must not cost the servers that are known
        for address in found - self._servers.keys():
            self._servers[address] = Server(address)
        for address in self._servers.keys() - found:
            gone = self._servers.pop(address)
            logger.info("Triton at %s is no longer named", address)
            # Calls in progress end as they would; only then the connection goes.
            closing = asyncio.create_task(gone.channel.close(grace=60))
            closing.add_done_callback(lambda task: task.exception())


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
