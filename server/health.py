"""Asks a Triton over gRPC whether it is ready, and why a model is not.

``python -m server.health HOST:PORT`` ends with 0 where it is.
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
    # Where nobody listens yet, it tries again at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 100),
]


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model of Triton's repository index."""

    name: str
    state: str  # READY, LOADING, UNLOADING, UNAVAILABLE; empty where it was never loaded
    reason: str  # why it is UNAVAILABLE


class Health:
    """A connection to one Triton, as a context manager."""

    def __init__(self, address: str) -> None:
        """Connects when it is first used."""
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        """Does nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self._channel.close()

    def is_live(self) -> bool:
        """Whether it answers."""
        try:
            return bool(
                self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=TIMEOUT).live
            )
        except grpc.RpcError:
            return False

    def is_ready(self) -> bool:
        """Whether it answers, and can serve all of its models."""
        try:
            asked = service_pb2.ServerReadyRequest()
            return bool(self._stub.ServerReady(asked, timeout=TIMEOUT).ready)
        except grpc.RpcError:
            return False

    def model_states(self, secret: str) -> tuple[ModelState, ...]:
        """Triton's repository index.

        Raises:
            grpc.RpcError: It cannot be reached, or the secret is not its own.
        """
        asked = service_pb2.RepositoryIndexRequest()
        index = self._stub.RepositoryIndex(asked, timeout=TIMEOUT, metadata=((METADATA, secret),))
        return tuple(ModelState(each.name, each.state, each.reason) for each in index.models)


def readable_reason(reason: str) -> str:
    """A load failure without the Python traceback that the stub adds to its message."""
    return reason.split("\n\nAt:\n")[0].strip()


def main(address: str) -> int:
    """0 where the Triton at this address is ready, else 1."""
    with Health(address) as health:
        return 0 if health.is_ready() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
