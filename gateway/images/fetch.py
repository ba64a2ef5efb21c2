"""Fetches images from URLs, safe by default.

A name is resolved once, every address is checked, and the connection goes to a checked address, so
a change in between has no effect. Each redirect takes the same steps. No proxy, cookie, credential
or compression is used.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urljoin

import httpcore2

from gateway.errors import ImageError, RequestError, TooLarge
from gateway.images.addresses import PORTS, Address, Target, allowed, listed, parse, refused
from gateway.images.network import Head, Pinned
from gateway.images.slots import Owner, Slots
from gateway.models.values import Deadline

_MOVED = frozenset({301, 302, 303, 307, 308})
_OK = 200
_MAX_LENGTH_DIGITS = 18
_MOST_CHUNKS = 4_096  # besides one a KiB; each takes the event loop's time, however small it is
OUT_OF_TIME = "the request's time for fetching ended before the image arrived"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class FetchRules:
    """The URLs that may be fetched, and the limits of a fetch."""

    hosts: tuple[str, ...] = ()  # names, or *.name; empty: every host
    ports: frozenset[int] = frozenset({80, 443})
    private: bool = False  # whether private and loopback addresses are allowed
    max_bytes: int = 32 * 2**20  # of one image
    timeout_s: float = 5.0  # for one image, from the lookup to the last byte
    max_redirects: int = 3
    concurrency: int = 8  # images being fetched, or held until they are decoded


class Fetcher:
    """Fetches images. Create it inside the running event loop."""

    def __init__(
        self,
        rules: FetchRules,
        resolve: Resolve | None = None,
        network: httpcore2.AsyncNetworkBackend | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Take the rules; tests also pass a resolver, a network and a TLS context."""
        self._rules = rules
        self._resolve = resolve or look_up
        self._network = network or httpcore2.AnyIOBackend()
        self._trust = trust or ssl.create_default_context()
        self._slots = Slots(rules.concurrency)

    @asynccontextmanager
    async def fetched(self, url: str, request: Owner, until: Deadline) -> AsyncIterator[bytes]:
        """Fetch an image, and hold one of the shared slots while the block uses the bytes.

        Args:
            url: Of the image.
            request: The request that the image belongs to.
            until: The deadline of the fetch, including the wait for a slot.

        Raises:
            MalformedRequest: The URL may not be fetched (`url_not_allowed`).
            ImageError: The fetch failed (`url_failed`).
            TooLarge: The body is larger than an image may be.
        """
        target = parse(url)
        try:
            await self._slots.take(request, until.at - Deadline.now())
        except TimeoutError:
            raise _failed(OUT_OF_TIME) from None
        try:
            yield await self._fetch(target, until)
        finally:
            self._slots.give_back(request)

    async def _fetch(self, target: Target, until: Deadline) -> bytes:
        left_s = until.at - Deadline.now()
        try:
            async with asyncio.timeout(min(self._rules.timeout_s, left_s)):
                return await self._follow(target)
        except TimeoutError:
            if left_s < self._rules.timeout_s:
                raise _failed(OUT_OF_TIME) from None
            raise _failed(
                f"not fetched within {self._rules.timeout_s:g} seconds (GATEWAY_FETCH_TIMEOUT_S)"
            ) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):
            raise _failed("the host cannot be reached, or does not speak HTTP") from None

    async def _follow(self, target: Target) -> bytes:
        for _ in range(self._rules.max_redirects + 1):
            found = await self._get(target, await self._checked(target))
            if isinstance(found, bytes):
                return found
            target = _moved(target, found)
        raise _failed(f"there are more than {self._rules.max_redirects} redirects")

    async def _checked(self, target: Target) -> Sequence[Address]:
        """Resolve a host, and check that every address is allowed."""
        rules = self._rules
        if target.port not in rules.ports:
            raise refused(f"port {target.port} is not fetched from (GATEWAY_FETCH_PORTS)")
        if rules.hosts and not listed(target.host, rules.hosts):
            raise refused(f"host {target.host!r} is not listed (GATEWAY_FETCH_HOSTS)")
        found = await self._addresses(target)
        # The same error for both, so that it does not reveal which internal names exist.
        if not found or not all(allowed(each, private=rules.private) for each in found):
            raise refused(f"host {target.host!r} has no address, or not only public ones")
        return found

    async def _addresses(self, target: Target) -> Sequence[Address]:
        try:
            return [ip_address(target.host)]
        except ValueError:
            with contextlib.suppress(OSError, ValueError):
                return [ip_address(each) for each in await self._resolve(target.host, target.port)]
            return []

    async def _get(self, target: Target, addresses: Sequence[Address]) -> bytes | str:
        """The body, or the location of a redirect."""
        url = httpcore2.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path
        )
        head = Head()
        connection = httpcore2.AsyncHTTPConnection(
            url.origin,
            ssl_context=self._trust,
            network_backend=Pinned(addresses, self._network, head),
        )
        asked = connection.stream(
            "GET", url, headers=_headers(target), extensions={"trace": head.trace}
        )
        async with connection, asked as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _MOVED and b"location" in headers:
                return headers[b"location"].decode("latin-1")
            if response.status != _OK:
                raise _failed(f"the host answered with status {response.status}")
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise _failed("the host sent it compressed, which the request did not accept")
            return await self._body(response, headers.get(b"content-length", b""))

    async def _body(self, response: httpcore2.Response, declared: bytes) -> bytes:
        limit = self._rules.max_bytes
        size = int(declared) if declared.isdigit() and len(declared) <= _MAX_LENGTH_DIGITS else 0
        if size <= limit:
            body = bytearray()
            chunks = 0
            async for chunk in response.aiter_stream():
                body += chunk
                chunks += 1
                if len(body) > limit:
                    break
                if chunks > _MOST_CHUNKS + len(body) // 1024:
                    raise _failed("the host sent it in very small pieces")
            else:
                return bytes(body)
        raise TooLarge(
            f"the content of the URL has more bytes than the limit (GATEWAY_MAX_IMAGE_BYTES) "
            f"of {limit:,}"
        )


async def look_up(host: str, port: int) -> Sequence[str]:
    """Resolve a name with the system's resolver. Raises OSError: it has no address.

    Each lookup has a daemon thread: a name server that hangs delays neither other lookups nor the
    gateway's stop.
    """
    answer: Future[Sequence[str]] = Future()

    def work() -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(address[0]) for *_, address in entries)))
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)

    threading.Thread(target=work, name="look-up", daemon=True).start()
    return await asyncio.wrap_future(answer)


def _moved(target: Target, location: str) -> Target:
    try:
        return parse(urljoin(str(target), location))
    except ValueError:
        raise refused("it redirects to an invalid URL") from None


def _headers(target: Target) -> list[tuple[bytes | str, bytes | str]]:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return [
        ("host", host if target.port == PORTS[target.scheme] else f"{host}:{target.port}"),
        ("user-agent", "openclip-triton"),
        ("accept", "image/*,*/*;q=0.5"),
        ("accept-encoding", "identity"),
        ("connection", "close"),
    ]


def _failed(why: str) -> RequestError:
    return ImageError(f"the URL cannot be fetched: {why}", code="url_failed")
