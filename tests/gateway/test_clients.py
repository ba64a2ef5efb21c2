"""Who a client is: of one address all, and of an IPv6 network all its addresses."""

import pytest

from gateway.access.clients import by_address, by_peer


@pytest.mark.parametrize(
    ("address", "peer", "client"),
    [
        ("192.0.2.7", "ipv4:192.0.2.7:5000", "192.0.2.7"),
        ("::ffff:192.0.2.7", "ipv6:%5B::ffff:192.0.2.7%5D:5000", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5000", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "ipv6:[2001:db8:1:2:ffff::1]:5000", "2001:db8:1:2::"),
        ("", "unix:", ""),
    ],
)
def test_both_protocols_know_a_client_by_the_same_name(
    address: str, peer: str, client: str
) -> None:
    assert by_address(address) == by_peer(peer) == client
