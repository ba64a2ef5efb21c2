"""Bounds the work and memory that a file's structure costs a decoder, besides its pixels."""

import contextlib
import math
import re
import struct
from collections.abc import Iterator
from io import BytesIO

from PIL import Image, ImageFile

from gateway.errors import ImageError, TooLarge
from gateway.images.avif import exif_bytes, frames_bytes

# A picture of 32 MB in pieces of 8 KB takes 12,000 reads. Each piece costs a Python object.
MOST_READS = 2**16
_RLE_READS = 2**20  # of a BMP, which Pillow reads byte by byte if it is compressed
_MOST_STEPS = 2**18  # through the codestreams of a file; they take a quarter of a second
# The values that Pillow's decoders in Python may decode; these take up to 1.5 seconds.
_MOST_VALUES = {"bmp_rle": 2**21, "ppm_plain": 2**20}
_MOST_COMMENTS = 1_000  # of such a file; each is cut out of a megabyte

_TOO_MANY = "the image consists of too many parts"


class _Steps:
    """Counts the steps that reading a file takes, up to a limit."""

    def __init__(self, most: int) -> None:
        self._left = most

    def count(self) -> None:
        """Count one step. Raises ImageError: there were too many."""
        self._left -= 1
        if self._left < 0:
            raise ImageError(_TOO_MANY)


class Source(BytesIO):
    """The bytes of an image, which may be read a limited number of times.

    Pillow keeps each segment, chunk or comment of a file: 32 MB of empty ones become a gigabyte.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = _Steps(_RLE_READS if data.startswith(b"BM") else MOST_READS)

    def read(self, size: int | None = -1, /) -> bytes:
        """See `BytesIO`. Raises ImageError: it was read too often."""
        self._reads.count()
        return super().read(size)


def check_values(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse an opened picture that would be decoded in Python for longer than a moment.

    Raises:
        TooLarge: It has too many values.
        ImageError: It has too many comments.
    """
    codecs = [tile.codec_name for tile in image.tile if tile.codec_name in _MOST_VALUES]
    if not codecs:
        return
    limit = _MOST_VALUES[codecs[0]]
    values = image.width * image.height * len(image.getbands())
    if values > limit:
        raise TooLarge(
            f"the image has {values:,} values; the limit for a run-length BMP or a plain-text PPM "
            f"is {limit:,}"
        )
    if data.count(b"#") > _MOST_COMMENTS and image.format == "PPM":
        raise ImageError(_TOO_MANY)


def structure_bytes(image: Image.Image, data: bytes) -> int:
    """Memory of tiles and similar structure while an opened picture is decoded, in bytes.

    Raises:
        ImageError: The structure is broken, or too large.
    """
    if image.format == "JPEG2000":
        steps = _Steps(_MOST_STEPS)
        starts = (found.start() for found in _CODESTREAM.finditer(data))
        return max((_codestream(data, start, steps) for start in starts), default=0)
    if image.format == "AVIF":
        own = _AVIF_ALPHA if image.mode == "RGBA" else _AVIF
        return max(0, frames_bytes(data) - own * image.width * image.height)
    if image.format == "TIFF":
        return _tile_bytes(data)
    return 0


_AVIF, _AVIF_ALPHA = 4, 7  # bytes a pixel of frames, which `decode_bytes` counts


# A JPEG 2000 codestream may stand anywhere in its file, and begins with these two markers.
_CODESTREAM = re.compile(b"\xff\x4f\xff\x51")
_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93
_SIZ = struct.Struct(">HHIIIIIIIIH")
_WHOLE = 15  # the default exponent of a precinct
# Measured with OpenJPEG 2.5.
_TILE, _TILE_COMPONENT, _PRECINCT, _BLOCK = 9_000, 1_100, 450, 200


def _codestream(data: bytes, start: int, steps: _Steps) -> int:
    """Memory that OpenJPEG takes for the tiles, precincts and code-blocks of a codestream."""
    steps.count()
    at = start + 4
    try:
        length, _, right, bottom, left, top, wide, high, tile_left, tile_top, bands = (
            _SIZ.unpack_from(data, at)
        )
    except struct.error:
        return 0
    if length != 38 + 3 * bands or not wide or not high or right <= left or bottom <= top:
        return 0  # OpenJPEG refuses it
    tiles = -(-(right - tile_left) // wide) * -(-(bottom - tile_top) // high)
    styles = _styles(data, at + length, bands, steps)
    parts = max((_parts(each, right - left, bottom - top, steps) for each in styles), default=0)
    return int(tiles * (_TILE + _TILE_COMPONENT * bands) + bands * parts)


def _styles(data: bytes, at: int, bands: int, steps: _Steps) -> Iterator[bytes]:
    """Each COD and COC: whether it sets precincts, then its fields from the number of levels on."""
    part = 0
    try:
        while True:
            steps.count()
            marker, length = struct.unpack_from(">HH", data, at)
            if marker == _SOT:
                [size] = struct.unpack_from(">I", data, at + 6)
                part = at + size if size else len(data)
            elif marker == _SOD:
                if part <= at:
                    return
                at = part
                continue
            elif marker in {_COD, _COC}:
                style = at + 4 if marker == _COD else at + 5 + (bands > 256)
                own = data[style] & 1
                yield bytes([own]) + data[style + (5 if marker == _COD else 1) : at + 2 + length]
            at += 2 + length
    except (struct.error, IndexError):
        return


def _parts(style: bytes, width: int, height: int, steps: _Steps) -> int:
    """Bytes of the precincts and code-blocks of one band."""
    try:
        own, levels, block_x, block_y = style[:4]
        total = 0
        for level in range(levels + 1):
            steps.count()
            size = style[6 + level] if own else _WHOLE * 17
            x, y = size & 15, size >> 4
            scale = levels - level
            wide, high = -(-width >> scale), -(-height >> scale)
            precincts = -(-wide >> x) * -(-high >> y)
            x, y = min(x, (block_x & 15) + 2), min(y, (block_y & 15) + 2)
            total += 3 * precincts * _PRECINCT + -(-wide >> x) * -(-high >> y) * _BLOCK
    except (ValueError, IndexError):
        return 0
    return total


_MOST_NUMBERS = 2**17  # places and sizes of strips, resolutions, colours
_RATIONAL, _SEGMENT = 8, 2**16  # bytes of the largest number, and of a JPEG's segment
# Of ftyp, as Pillow takes them: mif1 and msf1 may also hold another kind of image.
_AVIFS = {b"ftyp" + brand for brand in (b"avif", b"avis", b"mif1", b"msf1")}
_TILE_SIDES = 322, 323  # the tags
_PIXEL_BYTES = 8  # of those that Pillow reads, at most
_BYTES = {1, 2, 7}  # the types that stay bytes
_SHORT, _SIGNED_SHORT, _LONG8, _SIGNED_LONG8 = 3, 8, 16, 17


def check_numbers(data: bytes) -> None:
    """Refuse a TIFF of many numbers, or a JPEG or AVIF with room for as many in its EXIF data.

    Pillow makes objects of them when it opens the file.

    Raises:
        ImageError: There are too many.
    """
    numbers = 0
    if data.startswith((b"II", b"MM")):
        numbers = _tiff_numbers(data)
    elif data.startswith(b"\xff\xd8") and len(data) > _MOST_NUMBERS * _RATIONAL:
        numbers = data.count(b"Exif\0\0") * _SEGMENT // _RATIONAL
    elif data[4:12] in _AVIFS:
        numbers = exif_bytes(data) // _RATIONAL
    if numbers > _MOST_NUMBERS:
        raise ImageError(_TOO_MANY)


def _tiff_numbers(data: bytes) -> int:
    numbers = 0
    with contextlib.suppress(struct.error):  # Pillow reads no further either
        for _, kind, count, _ in _entries(data, large=data[2:3] == b"+"):
            if kind not in _BYTES and count <= len(data):  # else Pillow skips them
                numbers += count
    return numbers


def _tile_bytes(data: bytes) -> int:
    """Memory that libtiff takes for one tile of a TIFF's first picture, however small the picture.

    Accepts number types that Pillow ignores.
    """
    sides = dict.fromkeys(_TILE_SIDES, 0)

    def number(kind: str, at: int) -> int:
        return int(struct.unpack_from(_order(data) + kind, data, at)[0])

    try:
        large = number("H", 2) == 43
        for tag, kind, _, value in _entries(data, large=large):
            if tag in sides:
                if kind in {_LONG8, _SIGNED_LONG8}:
                    side = number("Q", value if large else number("I", value))
                else:
                    side = number("H" if kind in {_SHORT, _SIGNED_SHORT} else "I", value)
                sides[tag] = max(sides[tag], side)
    except struct.error:
        return 0  # libtiff reads no further either
    return math.prod(sides.values()) * _PIXEL_BYTES


def _entries(data: bytes, *, large: bool) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and the place of the value, of each entry of a TIFF's first directory."""
    order = _order(data)
    place, number, many = (8, "Q", "Q") if large else (4, "I", "H")
    entry = struct.Struct(f"{order}HH{number}")
    [at] = struct.unpack_from(order + number, data, place)
    [count] = struct.unpack_from(order + many, data, at)
    at += struct.calcsize(order + many)
    size = 20 if large else 12
    for start in range(at, min(at + min(count, MOST_READS) * size, len(data)), size):
        tag, kind, values = entry.unpack_from(data, start)
        yield tag, kind, values, start + entry.size


def _order(data: bytes) -> str:
    return "<" if data.startswith(b"I") else ">"
