"""How many rows fit into a call of an encoder, and the batch that they make."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.inference.client import Encoder

MAX_CALL_BYTES = 2_500_000  # beyond this, gRPC moves fewer images a second than in smaller calls
MAX_CALL_TOKENS = 1024  # of a packed call: 64 captions, or as many long texts as take as long
PARTS = 16  # of a call: what one client gets before the next client's turn

Rows = Sequence[NDArray[Any]]  # of one shape; int32 of any length where the encoder is packed


class Capacity:
    """The rows that still fit into a call, or into one part of a call."""

    def __init__(self, encoder: Encoder, parts: int = 1) -> None:
        """The capacity of an empty call of an encoder, divided by `parts`."""
        self._packed = encoder.pad_id is not None
        self._rows = encoder.max_batch // parts
        self._size = (MAX_CALL_TOKENS if self._packed else MAX_CALL_BYTES) // parts

    def fits(self, rows: Rows) -> bool:
        """Whether there is room for these rows."""
        return len(rows) <= self._rows and self._size_of(rows) <= self._size

    def take(self, rows: Rows) -> None:
        """Take the room of these rows."""
        self._rows -= len(rows)
        self._size -= self._size_of(rows)

    def _size_of(self, rows: Rows) -> int:
        return sum(row.size if self._packed else row.nbytes for row in rows)


def split(encoder: Encoder, rows: Rows) -> Iterator[Rows]:
    """Split rows, in their order, into parts of a call; at least one row in each."""
    if len(rows) == 1:  # as most requests have it
        yield rows
        return
    begin, part = 0, Capacity(encoder, PARTS)
    for end, row in enumerate(rows):
        if end > begin and not part.fits([row]):
            yield rows[begin:end]
            begin, part = end, Capacity(encoder, PARTS)
        part.take([row])
    yield rows[begin:]


def joined(encoder: Encoder, rows: Rows) -> NDArray[Any]:
    """The batch of a call: [n, ...], or int32 [n, longest] where the encoder is packed."""
    if encoder.pad_id is None:
        return np.stack(rows)
    batch = np.full((len(rows), max(map(len, rows))), encoder.pad_id, dtype=np.int32)
    for into, row in zip(batch, rows, strict=True):
        into[: len(row)] = row
    return batch
