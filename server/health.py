"""Queries a Triton over gRPC: is it ready, and why is a model not.

``python -m server.health HOST:PORT`` exits with 0 if it is ready.
"""

import sys
from dataclasses import dataclass
from typing import Self

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from server.secret import METADATA

TIMEOUT = 5.0  # seconds
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # Retry at once while nobody listens yet.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 100),
]


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model of Triton's repository index."""

    name: str
    state: str  # READY, LOADING, UNLOADING, UNAVAILABLE; empty if never loaded
    reason: str  # why it is UNAVAILABLE


class Health:
    """A connection to one Triton, as a context manager."""

    def __init__(self, address: str) -> None:
        """Connect on first use."""
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        """Return the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._channel.close()

    def is_live(self) -> bool:
        """Whether Triton answers."""
        try:
            return bool(
                self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=TIMEOUT).live
            )
        except grpc.RpcError:
            return False

    def is_ready(self) -> bool:
        """Whether Triton answers and can serve all of its models."""
        try:
            request = service_pb2.ServerReadyRequest()
            return bool(self._stub.ServerReady(request, timeout=TIMEOUT).ready)
        except grpc.RpcError:
            return False

    def model_states(self, secret: str) -> tuple[ModelState, ...]:
        """Fetch Triton's repository index.

        Raises:
            grpc.RpcError: Triton cannot be reached, or the secret is wrong.
        """
        request = service_pb2.RepositoryIndexRequest()
        index = self._stub.RepositoryIndex(request, timeout=TIMEOUT, metadata=((METADATA, secret),))
        return tuple(ModelState(each.name, each.state, each.reason) for each in index.models)


def readable_reason(reason: str) -> str:
    """Strip the Python traceback that the stub adds to a load failure."""
    return reason.split("\n\nAt:\n")[0].strip()


def main(address: str) -> int:
    """Return 0 if the Triton at this address is ready, else 1."""
    with Health(address) as health:
        return 0 if health.is_ready() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
