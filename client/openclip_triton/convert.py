"""Between what the client takes and gives, and the messages on the wire."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton.errors import UnreadableFile
from openclip_triton.values import Content, Model, Prediction, Vector


def to_item(content: Content) -> pb.Item:
    """The message of a text, an encoded image, or an image's file, which is read here.

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
    """Bytes that the content will take, as far as can be told before it is read."""
    if isinstance(content, Path):
        try:
            return content.stat().st_size
        except OSError:
            return 0  # reading it will say what is wrong
    return content.nbytes if isinstance(content, memoryview) else len(content)


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        UnreadableFile: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror or error}") from error


def to_vector(packed: bytes) -> Vector:
    """Little-endian float32 bytes as float32 [D]."""
    return np.frombuffer(packed, "<f4").astype(np.float32, copy=False)


def to_matrix(rows: Sequence[pb.Row]) -> NDArray[np.float64]:
    """Rows of equal length as float64 [rows, values]."""
    return np.array([list(row.values) for row in rows], np.float64)


def to_prediction(message: pb.Prediction) -> Prediction:
    """One label of a zero-shot classification."""
    return Prediction(message.label, message.index, message.score, message.cosine)


def to_model(message: pb.Model) -> Model:
    """A served model."""
    return Model(
        id=message.id,
        version=message.version,
        fingerprint=message.fingerprint,
        open_clip_name=message.open_clip_name,
        pretrained=message.pretrained if message.HasField("pretrained") else None,
        precision=message.precision,
        runtime=message.runtime,
        embedding_size=message.embedding_size,
        context_length=message.context_length,
        image_size=message.image_size,
        scoring=message.scoring,
        gate_passed=message.gate_passed,
        aliases=tuple(message.aliases),
        is_default=message.is_default,
    )
