"""What goes into one call of an encoder: how many rows, and as which array."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.inference.client import Tower

MAX_CALL_BYTES = 2_500_000  # beyond this, gRPC moves fewer images a second than in smaller calls
MAX_CALL_TOKENS = 1024  # of a packed call: 64 captions, but no more long texts than take as long
PARTS = 16  # of a call: what is taken from one client before it is the next one's turn

Rows = Sequence[NDArray[Any]]  # of one shape; int32 of any length where the tower is packed


class Fill:
    """How full a call is, or one part of it."""

    def __init__(self, tower: Tower, parts: int = 1) -> None:
        """An empty call of an encoder; of so many equal parts, one."""
        self._packed = tower.pad_id is not None
        self._rows_left = tower.max_batch // parts
        self._left = (MAX_CALL_TOKENS if self._packed else MAX_CALL_BYTES) // parts

    def takes(self, rows: Rows) -> bool:
        """Whether rows fit beside those that are in."""
        return len(rows) <= self._rows_left and self._size(rows) <= self._left

    def add(self, rows: Rows) -> None:
        """Puts rows in."""
        self._rows_left -= len(rows)
        self._left -= self._size(rows)

    def _size(self, rows: Rows) -> int:
        return sum(row.size if self._packed else row.nbytes for row in rows)


def portions(tower: Tower, rows: Rows) -> Iterator[Rows]:
    """Rows in their order, cut into parts of a call; at least one row in each."""
    begin, fill = 0, Fill(tower, PARTS)
    for end, row in enumerate(rows):
        if end > begin and not fill.takes([row]):
            yield rows[begin:end]
            begin, fill = end, Fill(tower, PARTS)
        fill.add([row])
    yield rows[begin:]


def joined(tower: Tower, rows: Rows) -> NDArray[Any]:
    """The batch of a call: [n, ...], or int32 [n, longest] where the tower is packed."""
    if tower.pad_id is None:
        return np.stack(rows)
    batch = np.full((len(rows), max(map(len, rows))), tower.pad_id, dtype=np.int32)
    for into, row in zip(batch, rows, strict=True):
        into[: len(row)] = row
    return batch
