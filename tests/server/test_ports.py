"""Addresses are checked before anything is started."""

import socket
from pathlib import Path

import pytest

from server import ports
from server.config import ServerConfig
from server.errors import PortError


def config(**changes: int | str | None) -> ServerConfig:
    given = {"http_port": 0, "grpc_port": 0, "metrics_port": 0} | changes
    return ServerConfig(Path(), **given)  # type: ignore[arg-type]


def test_zero_takes_three_different_free_ports() -> None:
    claimed = ports.claim(config(host="localhost"))
    assert claimed.host == "127.0.0.1"
    assert len({claimed.http_port, claimed.grpc_port, claimed.metrics_port, 0}) == 4


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_taken_port_is_named_with_its_option(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=f"port {port} on .* change --{name}-port"):
            ports.claim(config(**{f"{name}_port": port}))


def test_a_port_given_twice_is_refused() -> None:
    free = ports.claim(config()).http_port
    with pytest.raises(PortError, match="change --grpc-port"):
        ports.claim(config(http_port=free, grpc_port=free))


def test_http_has_no_port_unless_it_is_given() -> None:
    closed = ports.claim(ServerConfig(Path(), grpc_port=0, metrics_port=0))
    assert closed.http_port is None
    assert ports.addresses(closed).http is None


def test_an_impossible_port_and_an_unknown_host_are_refused() -> None:
    with pytest.raises(PortError, match="port 70000 is not between"):
        ports.claim(config(http_port=70000))
    with pytest.raises(PortError, match=r"'no such host' has no IPv4 address.*change --host"):
        ports.claim(config(host="no such host"))


def test_clients_reach_a_server_on_all_interfaces_over_loopback() -> None:
    every = ports.addresses(config(host="0.0.0.0", grpc_port=9))  # noqa: S104 (not bound)
    assert every.grpc == "127.0.0.1:9"
