"""Files that are whole and on the disk, or not there. Everything here blocks."""

import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from gateway.errors import Unavailable

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=BaseModel)


def new_id() -> str:
    """A new id; ids rise with time."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def read(path: Path, schema: type[S]) -> S | None:
    """Read JSON; None where there is no file, or its content does not fit the schema."""
    try:
        return schema.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        logger.error("%s: the gateway did not write this; it is left out", path)
        return None


def write(path: Path, content: bytes) -> None:
    """Write a file that is whole and on the disk, or not there."""
    beside = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def writing() -> Iterator[None]:
    """Around a write for a client. Raises Unavailable: the folder cannot be written."""
    try:
        yield
    except OSError as error:
        logger.error("GATEWAY_BATCH_DIR cannot be written: %s", error)
        raise Unavailable(f"files cannot be kept now: {error.strerror}") from error
