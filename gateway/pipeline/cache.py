"""Vectors that were made before; one that several requests need at a time is made once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_ENTRY_BYTES = 600  # of a key, a future and the dictionary around a vector, roughly


@dataclass(frozen=True, slots=True)
class Encoded:
    """The vector of a text, or of a label over its templates."""

    vector: NDArray[np.float32]  # [D], unit length
    tokens: int  # real tokens that went into it
    truncated: bool


Make = Callable[[list[int]], Awaitable[list[Encoded]]]


@dataclass(slots=True)
class VectorCache:
    """Least recently used vectors within a number of bytes. Lives on the event loop: no lock."""

    max_bytes: int
    looked_up: Callable[[int, int], None] = lambda hits, misses: None  # after each look-up
    _bytes: int = 0
    _cleared: int = 0  # times
    _rows: OrderedDict[Hashable, Encoded] = field(default_factory=OrderedDict)
    _making: dict[Hashable, asyncio.Future[Encoded | None]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget every vector, and those that are being made as well."""
        self._rows.clear()
        self._making.clear()
        self._bytes = 0
        self._cleared += 1

    async def rows(self, keys: Sequence[Hashable], make: Make) -> list[Encoded]:
        """The vector of each key, in the order of the keys.

        `make` gets the positions of the keys that are missing, each key once; nobody else makes
        them meanwhile. If another request's `make` fails or is cancelled, this one takes over.

        Raises:
            Whatever `make` raises.
        """
        position = {key: index for index, key in reversed(list(enumerate(keys)))}
        found: dict[Hashable, Encoded] = {}
        for key in position:
            if (row := self._rows.get(key)) is not None:
                self._rows.move_to_end(key)
                found[key] = row
        self.looked_up(len(found), len(position) - len(found))
        while missing := [key for key in position if key not in found]:
            others = {key: self._making[key] for key in missing if key in self._making}
            mine = [key for key in missing if key not in others]
            if mine:
                found |= await self._make(mine, [position[key] for key in mine], make)
            if others:
                # Unlike awaiting them, this leaves the futures alone when this task is cancelled.
                await asyncio.wait(others.values())
                for key, future in others.items():
                    if (row := future.result()) is not None:
                        found[key] = row
        return [found[key] for key in keys]

    async def _make(
        self, keys: list[Hashable], positions: list[int], make: Make
    ) -> dict[Hashable, Encoded]:
        loop = asyncio.get_running_loop()
        futures = {key: loop.create_future() for key in keys}
        self._making |= futures
        cleared = self._cleared
        try:
            made = dict(zip(keys, await make(positions), strict=True))
            for key, row in made.items():
                futures[key].set_result(row)
                if cleared == self._cleared:
                    self._keep(key, row)
            return made
        finally:
            for key, future in futures.items():
                if self._making.get(key) is future:
                    del self._making[key]
                if not future.done():
                    future.set_result(None)

    def _keep(self, key: Hashable, row: Encoded) -> None:
        size = row.vector.nbytes + _ENTRY_BYTES
        if size > self.max_bytes or key in self._rows:  # another request made it meanwhile
            return
        # Copied, so that a small row does not hold the large answer that it came in.
        self._rows[key] = Encoded(row.vector.copy(), row.tokens, row.truncated)
        self._bytes += size
        while self._bytes > self.max_bytes:
            _, old = self._rows.popitem(last=False)
            self._bytes -= old.vector.nbytes + _ENTRY_BYTES
