"""The secret that Triton requires for loading models."""

import asyncio
import re
from pathlib import Path

from gateway.models.files import read_file

METADATA = "triton-grpc-protocol-openclip-secret"
SETTING = "GATEWAY_TRITON_SECRET_FILE"
_FORM = re.compile(r"[A-Za-z0-9_-]{16,256}")


class SecretError(Exception):
    """The secret's file cannot be read, or holds no secret."""


class Secret:
    """The secret in a file, which is read anew for each use, so it can be replaced."""

    def __init__(self, path: Path | None) -> None:
        """Check the file once; None means that there is no secret.

        Raises:
            SecretError: The file cannot be read, or holds no secret.
        """
        self._path = path
        self.read()

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call that loads a model. Raises SecretError: as above."""
        return await asyncio.to_thread(self.read)

    def read(self) -> tuple[tuple[str, str], ...]:
        """The same, in this thread."""
        if self._path is None:
            return ()
        try:
            secret = read_file(self._path).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"{SETTING}: {error}") from error
        if _FORM.fullmatch(secret) is None:
            raise SecretError(
                f"{SETTING}: {self._path} must hold 16 to 256 letters, digits, dashes and "
                "underscores"
            )
        return ((METADATA, secret),)

    def hint(self) -> str:
        """What to check when Triton refuses a load, for the end of a message."""
        if self._path is None:
            return f"; {SETTING} is not set"
        return f"; {SETTING} must name the file that Triton has its secret from"


NO_SECRET = Secret(None)
