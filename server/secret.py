"""The secret that Triton requires before it loads, unloads or reconfigures anything.

A caller sends it as gRPC metadata or as an HTTP header. Inference, metadata and health need none.
Uses only the standard library: NVIDIA's image runs this too.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from server.errors import SecretError

# Protocols that change the server, reveal its files or share memory; some of them can run code.
RESTRICTED = ("model-repository", "model-config", "shared-memory", "statistics", "trace", "logging")
HEADER = "openclip-secret"
METADATA = f"triton-grpc-protocol-{HEADER}"  # Triton sets the prefix
VARIABLE = "TRITON_SECRET_FILE"  # environment variable with the name of the file
FORM = re.compile(r"[A-Za-z0-9_-]{16,256}")  # valid in an option of Triton and in a header


def new() -> str:
    """Make a secret of 256 random bits."""
    return secrets.token_hex(32)


def kept(path: Path) -> str:
    """Read the secret from a file; create a missing file with a new secret.

    Raises:
        SecretError: The file cannot be read or created, or has no secret.
    """
    try:
        if not path.exists():
            with suppress(FileExistsError):  # another process has just created it
                private = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(private, "w") as file:
                    file.write(new() + "\n")
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(
            f"the file of Triton's secret, {path}, cannot be used: {error}"
        ) from error
    if FORM.fullmatch(secret) is None:
        raise SecretError(
            f"{path}: Triton's secret must have 16 to 256 letters, digits, dashes and underscores; "
            "remove the file to get a new one"
        )
    return secret


def options(secret: str) -> list[str]:
    """Options of tritonserver that restrict protocols to callers with the secret.

    Those of HTTP have no effect while HTTP is off.
    """
    restricted = ",".join(RESTRICTED)
    return [
        f"--grpc-restricted-protocol={restricted}:{HEADER}={secret}",
        f"--http-restricted-api={restricted}:{HEADER}={secret}",
    ]
