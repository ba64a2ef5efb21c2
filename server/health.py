"""Queries a Triton over gRPC: ``python -m server.health HOST:PORT`` exits with 0 if it is ready."""

import contextlib
import socket
import sys

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

TIMEOUT = 5.0  # seconds
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # Retry at once while the port is still closed.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 100),
]


def connect(address: str) -> InferenceServerClient:
    """Open a connection, a context manager; it connects on first use."""
    return InferenceServerClient(address, channel_args=OPTIONS)


def is_live(triton: InferenceServerClient) -> bool:
    """Whether Triton answers."""
    try:
        return bool(triton.is_server_live(client_timeout=TIMEOUT))
    except InferenceServerException:
        return False


def listens(address: str | None) -> bool:
    """Whether a port accepts connections; true where it is off (None)."""
    if address is None:
        return True
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), TIMEOUT):
        return True
    return False


def main(address: str) -> int:
    """Return 0 if the Triton at this address answers and can serve all of its models, else 1."""
    with connect(address) as triton:
        try:
            return 0 if triton.is_server_ready(client_timeout=TIMEOUT) else 1
        except InferenceServerException:
            return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m server.health HOST:PORT")
    sys.exit(main(sys.argv[1]))
