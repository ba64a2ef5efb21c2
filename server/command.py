"""The command line of tritonserver."""

from collections.abc import Iterable

from server import secret
from server.config import ServerConfig
from server.rundir import RunDirectory
from server.runtime import Runtime

STUB_TIMEOUT = 300  # seconds a stub may take to import its packages


def tritonserver_command(
    config: ServerConfig, runtime: Runtime, run: RunDirectory, models: Iterable[str]
) -> list[str]:
    """Build the command; ``models`` names the Triton models to load.

    Triton itself never exits on a model that fails to load, so that the launcher can ask for the
    reason. GPU metrics and pinned memory are off because this wheel's backends run on the CPU.
    """
    return [
        str(runtime.tritonserver),
        f"--model-repository={config.model_repository.resolve()}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--exit-on-error=false",
        "--strict-readiness=true",
        f"--exit-timeout-secs={max(1, round(config.stop_timeout) - 1)}",
        f"--backend-directory={run.backends}",
        f"--backend-config=python,shm-region-prefix-name={run.name}-",
        f"--backend-config=python,shm-default-byte-size={config.shm_bytes}",
        f"--backend-config=python,shm-growth-byte-size={config.shm_bytes}",
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT}",
        *_http(config),
        *secret.options(config.secret),
        f"--grpc-address={config.host}",
        f"--metrics-address={config.host}",
        f"--grpc-port={config.grpc_port}",
        f"--metrics-port={config.metrics_port}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        f"--log-info={'false' if config.quiet else 'true'}",
        f"--log-verbose={config.log_verbose}",
    ]


def _http(config: ServerConfig) -> list[str]:
    if config.http_port is None:
        return ["--allow-http=false"]
    return [f"--http-address={config.host}", f"--http-port={config.http_port}"]
