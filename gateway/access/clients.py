"""Names the client of a request, so that clients share capacity and encoders fairly.

Where there are keys it is the key's name, else the address that the connection comes from. uvicorn
takes an address from a header only if the connection comes from a proxy that a setting names.
"""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

HOST_BITS = 64  # of an IPv6 address: one host may use all of them


@lru_cache(1024)
def by_address(address: str) -> str:
    """The client at an address; for IPv6 its network, since one host may use all of it."""
    try:
        found = ip_address(address)
    except ValueError:  # such as a Unix socket
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> HOST_BITS << HOST_BITS))


def by_peer(peer: str) -> str:
    """The client at an address as gRPC writes it, such as `ipv4:127.0.0.1:5000`."""
    _, _, place = peer.partition(":")
    address, _, _ = unquote(place).rpartition(":")
    return by_address(address.strip("[]"))
