"""Checks addresses before Triton starts, so that an error names the option to change."""

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from server.config import Addresses, ServerConfig
from server.errors import PortError

MAX_PORT = 65535


def claim(config: ServerConfig) -> ServerConfig:
    """Resolve the host to an IPv4 address and every port 0 to a free port; check the others.

    Raises:
        PortError: the host is unknown, or a port is out of range or taken.
    """
    host = _ipv4(config.host)
    wanted = {} if config.http_port is None else {"--http-port": config.http_port}
    wanted |= {"--grpc-port": config.grpc_port, "--metrics-port": config.metrics_port}
    taken = reserve({option: (host, port) for option, port in wanted.items()})
    return replace(
        config,
        host=host,
        http_port=taken.get("--http-port"),
        grpc_port=taken["--grpc-port"],
        metrics_port=taken["--metrics-port"],
    )


def reserve(wanted: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Check hosts and ports by the option that sets each; a 0 becomes a free port.

    It binds all at once and releases them together, so that no two are equal.

    Raises:
        PortError: naming the port and the option to change.
    """
    with ExitStack() as held:
        return {
            option: _bind(held, _ipv4(host), port, option)
            for option, (host, port) in wanted.items()
        }


def addresses(config: ServerConfig) -> Addresses:
    """Addresses at which clients on this machine reach a server with a claimed configuration."""
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host  # noqa: S104 (compared)
    return Addresses(
        grpc=f"{host}:{config.grpc_port}",
        metrics=f"{host}:{config.metrics_port}",
        http=None if config.http_port is None else f"{host}:{config.http_port}",
    )


def _ipv4(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise PortError(f"host {host!r} has no IPv4 address ({error}); change --host") from error


def _bind(held: ExitStack, host: str, port: int, option: str) -> int:
    if not 0 <= port <= MAX_PORT:
        raise PortError(f"port {port} is not between 0 and {MAX_PORT}; change {option}")
    probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    # A port in TIME_WAIT is free to Triton; one that is listened on still fails.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        probe.listen()
    except OSError as error:
        raise PortError(
            f"port {port} on {host} cannot be used ({error.strerror}); "
            f"stop what uses it, or change {option}"
        ) from error
    return int(probe.getsockname()[1])
