"""The encodings of vectors in answers."""

import base64
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import MalformedRequest
from gateway.models.values import Vectors
from gateway.pipeline.engine import Engine

_PACKED = {"binary", "ubinary"}
_MIDDLE = 128  # of a byte without a sign
_TINY = np.finfo(np.float32).tiny


def check_packed(
    encodings: Collection[str], dimensions: int | None, param: str, model: str | None,
    engine: Engine,
) -> None:  # fmt: skip
    """Check that packed signs fill their bytes; `param` is the field of the dimensions.

    Raises:
        MalformedRequest: Signs are packed, and the number of dimensions is no multiple of 8.
        UnknownModel: The model is not served.
    """
    if _PACKED.isdisjoint(encodings):
        return
    size = dimensions or engine.models.find(model).manifest.embedding_size
    if size % 8:
        raise MalformedRequest(
            f"{param}: {size} is not a multiple of 8, and `binary` and `ubinary` pack the signs of "
            "eight entries into one number",
            param=param,
        )


def encoded(vectors: Vectors, encoding: str) -> Iterable[NDArray[Any] | str]:
    """The rows of float32 [n, D] in this encoding, one of `EmbeddingType`.

    `int8` and `uint8` [n, D] scale each row, so that its largest entry is 127 from the middle (0 or
    128): entries of a unit vector are small, and would keep few of their bits on a scale that all
    rows share. `binary` and `ubinary` [n, D / 8] pack signs, the first entry's into the highest
    bit; `binary` is 128 less than `ubinary`.
    """
    if encoding == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    if encoding in _PACKED:
        return _bytes(np.packbits(vectors > 0, axis=-1), signed=encoding == "binary")
    if encoding in {"int8", "uint8"}:
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        scaled = np.rint(vectors / np.maximum(largest, _TINY) * 127)  # a failed item's row is zeros
        return _bytes((scaled + _MIDDLE).astype(np.uint8), signed=encoding == "int8")
    return vectors


def _bytes(values: NDArray[np.uint8], *, signed: bool) -> NDArray[Any]:
    return (values.astype(np.int16) - _MIDDLE).astype(np.int8) if signed else values
