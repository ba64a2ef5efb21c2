"""Checks the URLs and the network addresses that the service may fetch from.

Only one spelling of a URL is accepted: one that two parsers might read differently is refused.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

from gateway.errors import MalformedRequest

Address = IPv4Address | IPv6Address

PORTS = {"http": 80, "https": 443}
_MAX_CHARACTERS = 8_000
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?(?:#.*)?",
    re.IGNORECASE | re.ASCII,  # without ASCII, the Kelvin sign would match k, and the long s s
)
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\]")  # stripped by some parsers, or read differently
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label, it makes a host an IPv4 address
_RESERVED = "!#$%&'()*+,/:;=?@[]~"  # in a path and query; left unquoted

# https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast.
_NEVER_V4 = tuple(map(ip_network, (
    "0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
    "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)))  # fmt: skip
_PRIVATE = tuple(map(ip_network, (
    "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128",
    "fc00::/7",
)))  # fmt: skip
# Metadata services, which hold machines' secrets: Alibaba's, Azure's, Amazon's and Google's.
_METADATA = frozenset(map(ip_address, (
    "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254",
)))  # fmt: skip
_GLOBAL_V6 = IPv6Network("2000::/3")
# Teredo and other IETF protocols, documentation, 6to4, documentation.
_NEVER_V6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL."""

    scheme: str  # http or https
    host: str  # in lower case: a name, or an address without brackets
    port: int
    path: str  # with the query; ASCII

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse(url: str) -> Target:
    """Parse a URL. Raises MalformedRequest: it is not a plain http or https URL."""
    if len(url) > _MAX_CHARACTERS:
        raise refused(f"a URL may have {_MAX_CHARACTERS:,} characters")
    if not re.match(r"https?:", url, re.IGNORECASE | re.ASCII):
        raise refused("only http:// and https:// URLs are fetched")
    if _UNSAFE.search(url):
        raise refused(
            "the URL holds spaces, control characters or backslashes; percent-encode them"
        )
    match = _URL.fullmatch(url)
    if not match:
        raise refused(
            "the URL must be http(s)://host[:port]/path, without user or password, its host in "
            "ASCII (xn--...)"
        )
    scheme = match["scheme"].lower()
    port = int(match["port"]) if match["port"] else PORTS[scheme]
    path = match["target"] or "/"
    path = quote(path if path[0] == "/" else f"/{path}", safe=_RESERVED, errors="replace")
    return Target(scheme, _host(match["host"].lower()), port, path)


def refused(why: str) -> MalformedRequest:
    """The error of a URL that may not be fetched."""
    return MalformedRequest(why, code="url_not_allowed")


def allowed(address: Address, *, private: bool) -> bool:
    """Whether to connect to an address: a public one, or with `private` a private one.

    Link-local, multicast, reserved and metadata addresses are never allowed. An IPv6 address that
    embeds an IPv4 address is treated like that one.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return allowed(address.ipv4_mapped, private=private)
        if address in _NAT64:
            return allowed(IPv4Address(address.packed[-4:]), private=private)
    if address in _METADATA:
        return False
    if any(address in network for network in _PRIVATE):
        return private
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NEVER_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _NEVER_V6)


def listed(host: str, patterns: tuple[str, ...]) -> bool:
    """Whether a host matches a pattern; `*.example.org` matches every name below it."""
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        for pattern in map(str.lower, patterns)
    )


def _host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise refused("the URL's host is not an IPv6 address") from None
    name = host.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))  # four decimal numbers, and nothing else
        except ValueError:
            raise refused("an IPv4 address must be four decimal numbers") from None
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise refused("the URL's host is not a name of the Domain Name System")
    return name
