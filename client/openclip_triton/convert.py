"""Converts between the client's values and the messages on the wire."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton.errors import UnreadableFile
from openclip_triton.values import Content, Model, Vector


def to_item(content: Content) -> pb.Item:
    """Convert a text, an encoded image or an image file, which it reads, to a message.

    Raises:
        UnreadableFile: The file cannot be read.
    """
    if isinstance(content, str):
        try:
            return pb.Item(text=content)
        except ValueError as error:
            raise UnreadableFile(f"the text is not Unicode: {error}") from error
    return pb.Item(image=read(content) if isinstance(content, Path) else bytes(content))


def size_of(content: Content) -> int:
    """Size of the content in bytes, without reading its file."""
    if isinstance(content, Path):
        try:
            return content.stat().st_size
        except (OSError, ValueError):
            return 0  # reading it reports the error
    return content.nbytes if isinstance(content, memoryview) else len(content)


def read(path: Path) -> bytes:
    """Read the bytes of a file.

    Raises:
        UnreadableFile: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # the name holds a null byte
        raise UnreadableFile(f"{path}: {error}") from error


def to_vector(packed: bytes) -> Vector:
    """Convert little-endian float32 bytes to float32 [D]."""
    return np.frombuffer(packed, "<f4").astype(np.float32, copy=False)


def to_matrix(rows: Sequence[pb.Row]) -> NDArray[np.float64]:
    """Convert rows of equal length to float64 [rows, values]."""
    return np.array([list(row.values) for row in rows], np.float64)


def to_model(message: pb.Model) -> Model:
    """Convert a served model."""
    values = {field.name: getattr(message, field.name) for field in fields(Model)}
    for name in ("pretrained", "card"):
        values[name] = getattr(message, name) if message.HasField(name) else None
    values["aliases"] = tuple(message.aliases)
    return Model(**values)
