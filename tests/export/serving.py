"""What was exported, in the real Triton and behind the gateway."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.config import ServerConfig
from server.launcher import TritonServer
from tests.conftest import GatewayClient, run_gateway
from tests.gateway.waiting import wait_until


@contextmanager
def serving(repository: Path, log: Callable[[str], None] | None = None) -> Iterator[GatewayClient]:
    """A client of a gateway on a repository, once it is ready; `log` takes Triton's lines."""
    config = ServerConfig(repository, grpc_port=0, metrics_port=0)
    with (
        TritonServer(config, log) as triton,
        run_gateway(triton_address=triton.addresses.grpc, model_repository=repository) as client,
    ):
        wait_until(lambda: client.get("/readyz").is_success)
        yield client
