"""The settings of one Triton server."""

from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of a launch; ``python -m server --help`` explains each.

    A port of 0 means any free port, an HTTP port of None no HTTP. ``shm_bytes`` is the initial size
    and the growth step of the shared memory through which Triton and each model instance exchange
    tensors.
    """

    model_repository: Path
    host: str = "127.0.0.1"
    http_port: int | None = None
    grpc_port: int = 8001
    metrics_port: int = 8002
    secret: str = field(default="", repr=False)  # empty: a new one
    models: tuple[str, ...] = ()  # model ids; empty: every published model
    exit_on_error: bool = True
    quiet: bool = False
    log_verbose: int = 0
    ready_timeout: float = 300.0  # seconds
    stop_timeout: float = 30.0  # seconds
    shm_bytes: int = 4 * MIB


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of a started Triton, each as ``host:port``."""

    grpc: str
    metrics: str
    http: str | None
