"""What files of ISO boxes, AVIF and JPEG 2000, cost to open: items, samples, EXIF data, frames."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain

from gateway.errors import ImageError

_MOST_PARTS = 2**16  # boxes, items, extents and OBUs in all
_MOST_ITEMS = 2**14  # each time that a table names one; they take a second
_MOST_BYTES = 2**26  # of all items together: several may share their bytes
_STREAM_BYTES = 2**18  # memory of one stream's decoder besides frames
# By whether chroma may be in full, and samples longer than 8 bits; 1 is for what goes with a pixel.
_PIXEL_BYTES = (3, 4), (4, 7)
_TOO_MANY = "the image consists of too many parts"
_ANY = b""  # kind of box
_SEQUENCE, _FRAMES = 1, {3, 6, 7}  # types of OBU
_TABLE = b"moov", b"trak", b"mdia", b"minf", b"stbl"  # where a track lists its samples


def check_jp2_boxes(data: bytes) -> None:
    """Refuse a JPEG 2000 file of many boxes or palettes, which Pillow reads in Python.

    Raises:
        ImageError: There are too many.
    """
    file = Boxes(memoryview(data))
    with suppress(IndexError):  # Pillow reads no further either
        palettes = len(list(file.within(b"jp2h", b"pclr")))
        inner = len(list(file.within(b"jp2h", b"res ", b"resc")))
        if palettes > 1 or inner > 1:
            raise ImageError(_TOO_MANY)


@dataclass(slots=True)
class _Stream:
    """One item, or the first sample of a track."""

    frames: int = 0
    early: int = 0  # of these, before the first sequence header
    frame_bytes: int = 0  # of the largest that its sequence headers allow


@dataclass(slots=True)
class Boxes:
    """Reads boxes as libavif does; both stop at a broken box.

    Each public method raises ImageError if the structure is broken or too large.
    """

    data: memoryview
    _parts: int = field(default=0)

    def frames_bytes(self) -> int:
        """An upper bound of the memory of all frames that are decoded for the first picture."""
        with _intact():
            items = [self._stream(each) for each in self._items()]
            samples = [self._stream(each) for each in self._samples()]
        largest = max((each.frame_bytes for each in chain(items, samples)), default=0)
        if not largest:
            raise ImageError("the AVIF holds no picture")
        # libavif decodes items or tracks, never both. Items may share a decoder, which keeps the
        # sequence header of the item before.
        return max(
            sum(
                _STREAM_BYTES + each.early * largest + (each.frames - each.early) * each.frame_bytes
                for each in streams
            )
            for streams in (items, samples)
        )

    def exif_bytes(self) -> int:
        """Size of the EXIF data, of which Pillow may make objects when it opens the file."""
        with _intact():
            return max(
                sum(size for _, extents in self._places(b"Exif", *track) for _, size in extents)
                for track in ((), (b"moov", b"trak"))
            )

    def _count(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise ImageError(_TOO_MANY)

    def _number(self, at: int, size: int) -> int:
        if at + size > len(self.data):
            raise IndexError
        return int.from_bytes(self.data[at : at + size])

    def _boxes(self, kind: bytes, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The positions of the contents of each box of one kind, nested in other boxes."""
        for at, end in places:
            while at + 8 <= end:
                self._count()
                size, start = self._number(at, 4), at + 8
                if size == 1:
                    size, start = self._number(start, 8), start + 8
                following = at + size if size else end
                if not start <= following <= end:
                    break
                if kind in (_ANY, self.data[at + 4 : at + 8]):
                    yield start, following
                at = following

    def within(self, *path: bytes) -> Iterator[tuple[int, int]]:
        """The positions of the contents of each box at the end of a path."""
        places = iter([(0, len(self.data))])
        for kind in path:
            places = self._boxes(kind, places)
            if kind in {b"meta", b"iref"}:
                places = ((at + 4, end) for at, end in places)
            elif kind == b"iinf":
                places = ((at + (8 if self.data[at] else 6), end) for at, end in places)
        return places

    def _items(self) -> Iterator[memoryview]:
        """The bytes of each item that is coded as AV1."""
        stored = [self.data[at:end] for at, end in self.within(b"meta", b"idat")]
        if len(stored) > 1:
            raise IndexError
        taken = 0
        for method, extents in self._places(b"av01"):
            source = stored[0] if method else self.data
            taken += sum(size for _, size in extents)
            if taken > _MOST_BYTES:
                raise ImageError("the AVIF's items are too large")
            if any(start + size > len(source) for start, size in extents):
                raise IndexError
            yield memoryview(b"".join(source[at : at + size] for at, size in extents))

    def _places(self, kind: bytes, *track: bytes) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Construction method, and offsets and lengths of the extents, of each item of a type."""
        found = set()
        for at, _ in self.within(*track, b"meta", b"iinf", b"infe"):
            size = 2 if self.data[at] == 2 else 4
            if bytes(self.data[at + 6 + size : at + 10 + size]) == kind:
                found.add(self._number(at + 4, size))
        for at, _ in self.within(*track, b"meta", b"iloc"):
            for item, method, extents in self._locations(at):
                if item in found:
                    yield method, extents

    def _locations(self, at: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """Each item's id, construction method, and the offsets and lengths of its extents."""
        version, sizes = self.data[at], self._number(at + 4, 2)
        offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        index = index if version else 0
        wide = 4 if version == 2 else 2
        items, at = self._number(at + 6, wide), at + 6 + wide
        for _ in range(items):
            self._count()
            item, at = self._number(at, wide), at + wide
            method = 0
            if version:
                method, at = self._number(at, 2) & 15, at + 2
            start, at = self._number(at + 2, base), at + 2 + base
            count, at = self._number(at, 2), at + 2
            extents = []
            for _ in range(count):
                self._count()
                at += index
                extents.append(
                    (start + self._number(at, offset), self._number(at + offset, length))
                )
                at += offset + length
            yield item, method, extents

    def check_items(self) -> None:
        """Refuse many items: libavif passes over all it has found for each that a table names.

        Properties count as parts.
        """
        total = 0
        with _intact():
            for track in ((), (b"moov", b"trak")):
                meta = *track, b"meta"
                total += sum(1 for _ in self.within(*meta, b"iinf", b"infe"))
                total += sum((end - at) // 2 for at, end in self.within(*meta, b"iref", _ANY))
                for at, _ in self.within(*meta, b"iprp", b"ipma"):
                    total += self._number(at + 4, 4)
                for at, _ in self.within(*meta, b"iloc"):
                    total += self._number(at + 6, 4 if self.data[at] == 2 else 2)
                for _ in self.within(*meta, b"iprp", b"ipco", _ANY):
                    pass
        if total > _MOST_ITEMS:
            raise ImageError(_TOO_MANY)

    def sample_count(self) -> int:
        """An upper bound of the samples in all tracks, each of which libavif lists."""
        total = 0
        with _intact():
            for table in self.within(*_TABLE):
                chunks = sum(
                    self._number(at + 4, 4)
                    for kind in (b"stco", b"co64")
                    for at, _ in self._boxes(kind, iter([table]))
                )
                most = 1  # in one chunk
                for at, _ in self._boxes(b"stsc", iter([table])):
                    for entry in range(self._number(at + 4, 4)):
                        self._count()
                        most = max(most, self._number(at + 12 + 12 * entry, 4))
                total += chunks * most
        return total

    def _samples(self) -> Iterator[memoryview]:
        """The bytes of each track's first sample."""
        for table in self.within(*_TABLE):
            sizes = (
                self._number(at + 4, 4) or (self._number(at + 12, 4) if end > at + 12 else 0)
                for at, end in self._boxes(b"stsz", iter([table]))
            )
            size = max(sizes, default=0)
            for kind, wide in ((b"stco", 4), (b"co64", 8)):
                for at, end in self._boxes(kind, iter([table])):
                    if end > at + 8:
                        start = self._number(at + 8, wide)
                        yield self.data[start : start + size]

    def _stream(self, stream: memoryview) -> _Stream:
        found, at = _Stream(), 0
        while at < len(stream):
            self._count()
            kind, extended, sized = stream[at] >> 3 & 15, stream[at] >> 2 & 1, stream[at] >> 1 & 1
            at += 1 + extended
            size = len(stream) - at
            if sized:
                size, at = _leb128(stream, at)
            if not 0 <= size <= len(stream) - at:
                raise IndexError
            if kind == _SEQUENCE:
                bits = _Bits(bytes(stream[at : at + min(size, 1_024)]))
                found.frame_bytes = max(found.frame_bytes, _frame_bytes(bits))
            elif kind in _FRAMES:
                found.frames += 1
                found.early += not found.frame_bytes
            at += size
        return found


@contextmanager
def _intact() -> Iterator[None]:
    try:
        yield
    except (struct.error, IndexError):
        raise ImageError("the AVIF's structure is broken") from None


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    """Read a LEB128 number; return it and the position after it."""
    value = 0
    for shift in range(0, 56, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError


class _Bits:
    """Reads an OBU bit by bit, the most significant first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def __call__(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & (1 << count) - 1


def _frame_bytes(bits: _Bits) -> int:
    """Memory of the largest frame that a sequence header allows (AV1, 5.5)."""
    profile, _, reduced = bits(3), bits(), bits()
    if reduced:
        bits(5)
    else:
        _skip_operating_points(bits)
    wide, high = bits(4) + 1, bits(4) + 1
    width, height = bits(wide) + 1, bits(high) + 1
    deep = True
    if reduced:
        bits(6)
        deep = bool(bits())
    else:  # a frame may override the size
        width, height = 1 << wide, 1 << high
    return width * height * _PIXEL_BYTES[profile > 0][deep]


def _skip_operating_points(bits: _Bits) -> None:
    delay = 0
    if bits():  # timing
        bits(64)
        if bits():  # all pictures last equally long
            zeros = 0
            while not bits():
                zeros += 1
            bits(zeros)
        if bits():  # decoder model
            delay = bits(5) + 1
            bits(42)
    displayed = bits()
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > 7:
            bits()
        if delay and bits():
            bits(2 * delay + 1)
        if displayed and bits():
            bits(4)
