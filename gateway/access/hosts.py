"""Checks the Host header: the host names that the service accepts.

A page on the web can have its own host name point to this machine once it is loaded (DNS
rebinding); a browser then takes this service for the page's. The request's Host header shows it.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from gateway.images.addresses import listed

# RFC 9110, section 7.2, and RFC 3986, section 3.2.2.
_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]+)(?:%[\w.~%-]+)?\]|(?P<name>(?:[\w.~!$&'()*+,;=-]|%[0-9a-f]{2})*))"
    r"(?::[0-9]*)?",
    re.ASCII | re.IGNORECASE,
)


def name_of(host: str) -> str | None:
    """The name or address in a Host header, in lower case without the port; None if invalid."""
    match = _HOST.fullmatch(host)
    if not match:
        return None
    return str(match["v6"] or match["name"]).lower().removesuffix(".")


def means_loopback(name: str) -> bool:
    """Whether a host is `localhost` or a loopback address."""
    return name == "localhost" or (_is_address(name) and ip_address(name).is_loopback)


def is_loopback(bound: str) -> bool:
    """Whether only this machine can reach a server that listens on this address or name.

    Raises:
        OSError: The name has no address.
    """
    return means_loopback(bound if ":" in bound else socket.gethostbyname(bound))


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that a request may name: loopback, and a configured list."""

    names: tuple[str, ...]  # *.example.org is every name below it
    addresses: bool  # any IP address, which no name server can point elsewhere

    def __contains__(self, name: str) -> bool:
        return (
            name in self.names  # the usual case, and fast
            or means_loopback(name)
            or listed(name, self.names)
            or (self.addresses and _is_address(name))
        )


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
