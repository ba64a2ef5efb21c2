"""What a TIFF costs to open and to decode: numbers of its directories, and its tiles and strips."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from gateway.errors import ImageError, TooLarge

MOST_NUMBERS = 2**17  # places and sizes of strips, resolutions, colours
_MOST_ENTRIES = 2**16  # of a directory
_MOST_TILED = 2**27  # pixels of all tiles
_MOST_ENCODED = 2**27  # bytes of all strips or tiles; some programs state the size of the pixels
_PIXEL_BYTES = 8  # of those that Pillow reads, at most

# Tags.
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_BYTE_COUNTS = {279, 325}
_DIRECTORIES = {34665, 34853, 40965}  # of EXIF data
_MOST_DIRECTORIES = 8  # the first, and one in each of these tags; these may contain others
# Types.
_BYTES = {1, 2, 7}  # their numbers stay bytes
_INTEGERS = {3: "H", 8: "H", 4: "I", 9: "I", 13: "I", 16: "Q", 17: "Q"}


def number_count(data: bytes) -> int:
    """The numbers in the first directory and those of EXIF data: Pillow makes objects of them."""
    numbers = 0
    file = _File(data, large=data[2:3] == b"+")  # also in big-endian files
    with suppress(struct.error):  # Pillow reads no further either
        places = [file.first()]
        for place in places:
            for tag, kind, count, value in file.entries(place):
                if kind not in _BYTES and count <= len(data):  # else Pillow skips them
                    numbers += count
                    if tag in _DIRECTORIES and len(places) < _MOST_DIRECTORIES:
                        places += file.integers(kind, 1, value)
    return numbers


def tile_bytes(data: bytes, directory: int) -> int:
    """Memory that libtiff takes for one tile of a picture, however small the picture.

    Args:
        data: The file.
        directory: The place of the picture's directory. Number types that Pillow ignores count.

    Raises:
        TooLarge: All tiles are far larger than any picture, or strips share their bytes.
        ImageError: There are too many strips or tiles.
    """
    sides = dict.fromkeys((_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT), 0)
    encoded = 0
    try:
        file = _File(data, large=43 in {data[2], data[3]})
        for tag, kind, count, value in file.entries(directory):
            if tag in sides:
                sides[tag] = max([sides[tag], *file.integers(kind, 1, value)])
            elif tag in _BYTE_COUNTS and count <= len(data):
                if count > MOST_NUMBERS:
                    raise ImageError("the TIFF has too many tiles or strips")
                encoded += sum(min(each, len(data)) for each in file.integers(kind, count, value))
    except (struct.error, IndexError):
        return 0  # libtiff reads no further either
    width, height, tile_width, tile_height = sides.values()
    tile = tile_width * tile_height
    tiles = -(-width // tile_width) * -(-height // tile_height) if tile else 0
    if tiles * tile > _MOST_TILED or encoded > _MOST_ENCODED:
        raise TooLarge("the tiles or strips of the TIFF have far too much data for a picture")
    return tile * _PIXEL_BYTES


@dataclass(slots=True)
class _File:
    """Reads directories as Pillow and libtiff do; these disagree on when places have 64 bits."""

    data: bytes
    large: bool

    def first(self) -> int:
        """The place of the first directory."""
        return self._number("Q" if self.large else "I", 8 if self.large else 4)

    def entries(self, at: int) -> Iterator[tuple[int, int, int, int]]:
        """Tag, type, count and the place of the value, of each entry of a directory."""
        entry = struct.Struct(f"{self._order}HH{'Q' if self.large else 'I'}")
        count = self._number("Q" if self.large else "H", at)
        at += 8 if self.large else 2
        size = 20 if self.large else 12
        for start in range(at, min(at + min(count, _MOST_ENTRIES) * size, len(self.data)), size):
            tag, kind, values = entry.unpack_from(self.data, start)
            yield tag, kind, values, start + entry.size

    def integers(self, kind: int, count: int, at: int) -> tuple[int, ...]:
        """The values of an entry, read as unsigned numbers; none if they are no integers."""
        if kind not in _INTEGERS:
            return ()
        values = struct.Struct(f"{self._order}{count}{_INTEGERS[kind]}")
        if values.size > (8 if self.large else 4):
            at = self._number("Q" if self.large else "I", at)
        return values.unpack_from(self.data, at)

    def _number(self, kind: str, at: int) -> int:
        return int(struct.unpack_from(self._order + kind, self.data, at)[0])

    @property
    def _order(self) -> str:
        return "<" if self.data.startswith(b"I") else ">"
