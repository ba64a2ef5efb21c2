"""The secret that Triton asks for before it loads, unloads or reconfigures anything.

A caller sends it as gRPC metadata, or as an HTTP header where HTTP is open. Inference, metadata and
health need none. Standard library alone: NVIDIA's image runs this too.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from server.errors import SecretError

# What changes the server, tells of its files, or hands it memory; all that can run code among it.
RESTRICTED = ("model-repository", "model-config", "shared-memory", "statistics", "trace", "logging")
HEADER = "openclip-secret"
METADATA = f"triton-grpc-protocol-{HEADER}"  # Triton sets the prefix
VARIABLE = "TRITON_SECRET_FILE"  # names the file, in containers
FORM = re.compile(r"[A-Za-z0-9_-]{16,256}")  # what an option of Triton and a header take as it is


def new() -> str:
    """256 random bits."""
    return secrets.token_hex(32)


def kept(path: Path) -> str:
    """The secret of a file; where there is no such file, it is made with a new one.

    Raises:
        SecretError: The file cannot be read or made, or holds no secret.
    """
    try:
        if not path.exists():
            with suppress(FileExistsError):  # another who starts just now has made it
                private = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(private, "w") as file:
                    file.write(new() + "\n")
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"the file of Triton's secret, {path}, is of no use: {error}") from error
    if FORM.fullmatch(secret) is None:
        raise SecretError(
            f"{path}: Triton's secret must have 16 to 256 letters, digits, dashes and underscores; "
            "remove the file to have one made"
        )
    return secret


def options(secret: str) -> list[str]:
    """Options of tritonserver that close what is restricted to all who do not have the secret.

    Those of HTTP do no harm where it is closed.
    """
    restricted = ",".join(RESTRICTED)
    return [
        f"--grpc-restricted-protocol={restricted}:{HEADER}={secret}",
        f"--http-restricted-api={restricted}:{HEADER}={secret}",
    ]
