"""The Tritons behind the gateway: resolved by name, chosen by load."""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence

from gateway.inference.server import Server

RESOLVE_S = 5.0  # between two lookups of the names

OnStatus = Callable[[int, int], None]
Lookup = Callable[[str], Awaitable[set[str]]]

logger = logging.getLogger(__name__)


class Servers:
    """The Tritons that the configured names resolve to, kept up to date."""

    def __init__(
        self,
        addresses: Sequence[str],
        on_status: OnStatus = lambda answering, broken: None,
        lookup: Lookup | None = None,
    ) -> None:
        """Begin to resolve `host:port` each; must be created inside the running event loop.

        A host name may stand for several servers. `on_status` is called after each change with the
        number of servers that answer, and of open breakers; `lookup` replaces the system's.
        """
        self._addresses = addresses
        self._on_status = on_status
        self._lookup = lookup or _lookup
        self._servers: dict[str, Server] = {}
        self.broken = False  # there are servers, and none of them answers
        self._closing: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._resolved = asyncio.Event()
        self._resolving = asyncio.create_task(self._keep_resolving())

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def resolved(self) -> bool:
        """Whether the names have been resolved once."""
        return self._resolved.is_set()

    async def available(self) -> list[Server]:
        """The servers whose breaker is closed, once the names have been resolved."""
        await self._resolved.wait()
        return self._answering()

    def _answering(self) -> list[Server]:
        return [server for server in self._servers.values() if not server.breaker_open]

    def pick(self, without: Server | None = None) -> Server | None:
        """The server with the fewest calls, connected ones first; None if no other answers."""
        candidates = [server for server in self._answering() if server is not without]
        return min(candidates, key=lambda s: (not s.connected(), s.inflight), default=None)

    async def close(self) -> None:
        """Close every connection."""
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
            except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be a name
                logger.warning("Triton at %s: %s", address, getattr(error, "strerror", 0) or error)
                return  # a failed lookup must not remove known servers
        for address in found - self._servers.keys():
            self._servers[address] = Server(address, self._report)
        for address in self._servers.keys() - found:
            gone = self._servers.pop(address)
            logger.info("Triton at %s is no longer named", address)
            # Calls under way finish before the connection closes.
            closing = asyncio.create_task(gone.close(grace_s=60))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._report()

    def _report(self) -> None:
        broken = sum(server.breaker_open for server in self._servers.values())
        self.broken = 0 < broken == len(self._servers)
        self._on_status(len(self._servers) - broken, broken)


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
