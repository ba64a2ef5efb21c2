"""How much a JSON text holds, counted before it is parsed: each value would cost an object."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.bool_]  # one for each byte

CHUNK_BYTES = 2**20
_QUOTE, _BACKSLASH, _U = ord('"'), ord("\\"), ord("u")
_BEYOND_ASCII = 128
# Which bytes, outside strings, come before a value.
_BEFORE_VALUE = np.isin(np.arange(256), [ord(each) for each in "[{,:"])


def count_values(body: bytes, most: int) -> int:
    """How many values, names included, a JSON text holds, roughly; stops counting beyond `most`.

    Wherever the text is JSON, each value but the outermost one has its own `[`, `{`, `,` or `:`
    before it, outside strings.
    """
    inside = False
    count = 1
    for _, chunk, quotes, _ in _chunks(body):
        within = np.logical_xor.accumulate(quotes) ^ inside
        inside = bool(within[-1])
        count += int(np.count_nonzero(_BEFORE_VALUE[chunk] & ~within))
        if count > most:
            break
    return count


def has_long_wide_string(body: bytes, most: int) -> bool:
    """Whether more than `most` bytes between two quotes hold a character beyond ASCII.

    Each character of such a string takes up to four bytes, and is copied several times meanwhile.
    """
    open_wide = False
    begin = 0  # of what stands between quotes where a chunk begins
    for start, chunk, quotes, masked in _chunks(body):
        wide = (chunk >= _BEYOND_ASCII) | ((chunk == _U) & masked)
        edges = np.concatenate([[begin], np.flatnonzero(quotes) + start, [start + len(chunk)]])
        within = np.unique(np.cumsum(quotes)[wide])  # numbers of pieces between quotes
        if open_wide and (not within.size or within[0]):
            within = np.concatenate([[0], within])
        if within.size and np.max(edges[within + 1] - edges[within]) > most:
            return True
        open_wide = bool(within.size) and within[-1] == len(edges) - 2
        begin = int(edges[-2])
    return False


def _chunks(body: bytes) -> Iterator[tuple[int, NDArray[np.uint8], Marks, Marks]]:
    """Where each chunk begins, its bytes, which are quotes, and which follow a backslash."""
    text = np.frombuffer(body, dtype=np.uint8)
    escaped = False
    for start in range(0, len(text), CHUNK_BYTES):
        chunk = text[start : start + CHUNK_BYTES]
        masked = _escaped(chunk, escaped)
        escaped = bool(masked[-1])
        yield start, chunk, (chunk == _QUOTE) & ~masked[:-1], masked[:-1]


def _escaped(chunk: NDArray[np.uint8], before: bool) -> Marks:
    """Which bytes, and whether the one after the chunk, follow an odd number of backslashes."""
    masked = np.zeros(len(chunk) + 1, dtype=np.bool_)
    masked[0] = before
    places = np.flatnonzero(chunk == _BACKSLASH)
    if before and places.size and places[0] == 0:
        places = places[1:]  # it is escaped itself, and escapes nothing
    if not places.size:
        return masked
    starts = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    lengths = np.diff(starts, append=places.size)
    ends = places[starts] + lengths
    masked[ends[lengths % 2 == 1]] = True
    return masked
