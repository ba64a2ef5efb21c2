"""Entry of the triton-gpu image: checks the TensorRT plans, then becomes tritonserver.

Needs only the standard library, so that it runs in NVIDIA's unmodified image. Arguments after the
repository go to tritonserver. `TRITON_SECRET_FILE` names the file of the secret that callers must
send to load models; without it, models cannot be loaded while Triton runs.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from server import secret
from server.errors import ServerError
from server.repository import select_models

IDS = "TRITON_MODELS"  # model ids with commas between; unset or empty: all


def main(arguments: Sequence[str]) -> int:
    """Become tritonserver; return 1 if that fails, 2 for a wrong command line."""
    if not arguments:
        print("usage: serve.py REPOSITORY [option of tritonserver ...]", file=sys.stderr)
        return 2
    repository = Path(arguments[0])
    file = os.environ.get(secret.VARIABLE)
    try:
        kept = secret.kept(Path(file)) if file else secret.new()
        found = select_models(repository, filter(None, os.environ.get(IDS, "").split(",")))
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Triton also refuses a plan of another TensorRT or GPU, but does not say why.
    checked = subprocess.run(
        [sys.executable, "-m", "export", "--check-engines", str(repository)], check=False
    )
    if checked.returncode:
        return 1
    names = (name for model in found for name in model.triton_models)
    command = tritonserver(repository, names, kept, arguments[1:])
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"error: tritonserver cannot be started: {error.strerror}", file=sys.stderr)
    return 1


def tritonserver(
    repository: Path, models: Iterable[str], kept: str, extra: Sequence[str]
) -> list[str]:
    """The command line; loads these Triton models, and others only for callers with the secret."""
    return [
        "tritonserver",
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--strict-readiness=true",
        "--allow-http=false",
        *secret.options(kept),
        "--exit-timeout-secs=25",
        *extra,
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
