"""The command line: ``python -m server``."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from server import secret
from server.config import MIB, ServerConfig
from server.errors import ServerError
from server.launcher import TritonServer

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server until a signal stops it; return 0 after a clean stop, 1 after a failure."""
    config = parse(arguments)
    try:
        return serve(config)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


def serve(config: ServerConfig) -> int:
    """Start, report readiness, and wait for a signal or for tritonserver's end."""
    server = TritonServer(config, log=lambda line: print(line, file=sys.stderr, flush=True))
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        """Stop in order on the first signal; kill on any further one."""
        received.append(number)
        if len(received) == 1:
            server.request_stop()
        else:
            server.kill()

    try:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, stop)
        server.start()
        if received:
            server.request_stop()
        server.wait_ready()
        _announce(server)
        server.wait()
        if not received:
            raise server.exit_error()
    except ServerError:
        if not received:
            server.kill()
            raise
    finally:
        server.stop()
    print("stopped", flush=True)
    return 0


def _announce(server: TritonServer) -> None:
    models = ", ".join(f"{model.id} ({', '.join(model.triton_models)})" for model in server.models)
    where = server.addresses
    http = f", HTTP http://{where.http}" if where.http else ""
    print(
        f"Triton is ready: gRPC {where.grpc}, metrics http://{where.metrics}/metrics{http}; "
        f"models: {models}",
        flush=True,
    )


def parse(arguments: Sequence[str] | None = None) -> ServerConfig:
    """Read the command line and the secret; exit with 2 or 1 if either is wrong."""
    default = ServerConfig(Path("model_repository"))
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve a model repository with a real Triton Inference Server, on the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model-repository", type=Path, metavar="DIR", help="folder with models and manifests")
    add("--models", nargs="+", metavar="ID", help="serve only these model ids")
    add("--host", help="IPv4 address or name to listen on")
    for name in ("grpc", "metrics"):
        add(f"--{name}-port", type=int, metavar="PORT", help=f"port for {name}; 0: any free one")
    add("--http-port", type=int, metavar="PORT", help="port for HTTP, else off; 0: any free one")
    add(
        "--secret-file",
        type=Path,
        default=os.environ.get(secret.VARIABLE) or None,
        metavar="FILE",
        help="file with the secret that loading models requires; created if missing. Without it "
        f"and {secret.VARIABLE}, nobody can load models while Triton runs",
    )
    add(
        "--exit-on-error", action=argparse.BooleanOptionalAction,
        help="exit when a model fails to load, instead of serving the others",
    )  # fmt: skip
    add("--ready-timeout", type=float, metavar="SECONDS", help="longest time to load the models")
    add("--stop-timeout", type=float, metavar="SECONDS", help="longest time to stop; then kill")
    add(
        "--shm-size", type=int, metavar="MIB", default=default.shm_bytes // MIB,
        help="first size and growth step of each model instance's shared memory",
    )  # fmt: skip
    add("--quiet", action="store_true", help="log Triton's warnings and errors only")
    add("--log-verbose", type=int, metavar="LEVEL", help="Triton's verbose level")
    parser.set_defaults(**asdict(default))
    options = vars(parser.parse_args(arguments))
    options["models"] = tuple(options["models"])
    options["shm_bytes"] = options.pop("shm_size") * MIB
    file = options.pop("secret_file")
    try:
        options["secret"] = secret.kept(file) if file else ""
    except ServerError as error:
        parser.exit(1, f"error: {error}\n")
    return ServerConfig(**options)


if __name__ == "__main__":
    sys.exit(main())
