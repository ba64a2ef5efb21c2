"""Bounds the work and memory that a file's structure costs a decoder, besides its pixels."""

import re
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from io import BytesIO

from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from gateway.errors import ImageError, TooLarge
from gateway.images import tiff
from gateway.images.boxes import Boxes, check_jp2_boxes
from gateway.images.tiff import MOST_NUMBERS

# A picture of 32 MB in pieces of 8 KB takes 12,000 reads. Each piece costs a Python object.
MOST_READS = 2**16
_RLE_READS = 2**20  # of a BMP, which Pillow reads byte by byte if it is compressed
_MOST_STEPS = 2**17  # through the codestreams of a file; they take half a second
# The values that Pillow's decoders in Python may decode; these take up to 1.5 seconds.
_MOST_VALUES = {"bmp_rle": 2**21, "ppm_plain": 2**20}
_MOST_COMMENTS = 1_000  # of such a file; each is cut out of a megabyte
_MOST_COVERS = 8  # how often strips may cover the whole picture; one plane a band covers it 6 times

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
    """Refuse an opened picture that would be decoded in Python, or over and over, for seconds.

    Raises:
        TooLarge: It has too many values.
        ImageError: It has too many comments, or strips that cover it too often.
    """
    places = [tile.extents for tile in image.tile if tile.extents]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in places)
    if covered > _MOST_COVERS * image.width * image.height:
        raise ImageError(_TOO_MANY)
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
        TooLarge: It has too many tiles or precincts.
    """
    if image.format == "JPEG2000":
        steps = _Steps(_MOST_STEPS)
        starts = (found.start() for found in _CODESTREAM.finditer(data))
        return max((_codestream(data, start, steps) for start in starts), default=0)
    if image.format == "AVIF":
        own = _AVIF_ALPHA if image.mode == "RGBA" else _AVIF
        return max(0, Boxes(memoryview(data)).frames_bytes() - own * image.width * image.height)
    if isinstance(image, TiffImageFile):
        return tiff.tile_bytes(data, image.tag_v2.offset)
    return 0


_AVIF, _AVIF_ALPHA = 4, 7  # bytes a pixel of frames, which `decode_bytes` counts


# Of libwebp's `vp8l_dec.c`: blocks of 4 x 4 pixels may each name a group of five prefix codes, with
# tables of up to 5,004 entries of 4 bytes. A group takes 20 bits of the file or more.
_BLOCK_SIDE, _MOST_GROUPS, _GROUP_BITS, _GROUP = 4, 2**16, 20, 20_600


def prefix_code_bytes(image: Image.Image, data: bytes) -> int:
    """An upper bound of the memory of a lossless WebP's prefix codes; only decoding it shows more.

    Honest pictures take a small part of that. So none should be refused for it, but those that
    might take much should be decoded alone.
    """
    if image.format != "WEBP" or (b"VP8L" not in data and b"ALPH" not in data):
        return 0
    blocks = -(-image.width // _BLOCK_SIDE) * -(-image.height // _BLOCK_SIDE)
    return min(_MOST_GROUPS, blocks, 8 * len(data) // _GROUP_BITS) * _GROUP


# A JPEG 2000 codestream may stand anywhere in its file, and begins with these two markers.
_CODESTREAM = re.compile(b"\xff\x4f\xff\x51")
_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93
_SIZ = struct.Struct(">HHIIIIIIIIH")
_WHOLE = 15  # the default exponent of a precinct
# Measured with OpenJPEG 2.5.
_TILE, _TILE_COMPONENT, _PRECINCT, _BLOCK = 9_000, 1_100, 450, 200
# In most orders, OpenJPEG looks for packets at each place where some band may have a precinct. It
# may do so 32 times, which then takes a second. Precincts of 64 pixels are within the limit.
_MOST_PLACES = 2**19
_MOST_PACKETS = 2**21  # even empty ones take a second


@dataclass(frozen=True, slots=True)
class _Parts:
    """The precincts and code-blocks of one band."""

    size: int = 0  # bytes
    levels: int = 1
    precincts: int = 0  # of all levels
    across: int = 0  # precincts of the level that has most from left to right
    down: int = 0

    def largest(self, other: "_Parts") -> "_Parts":
        return _Parts(*map(max, astuple(self), astuple(other)))


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
    columns, rows = -(-(right - tile_left) // wide), -(-(bottom - tile_top) // high)
    layers, parts = 1, _Parts()
    for own_layers, style in _styles(data, at + length, bands, steps):
        layers = max(layers, own_layers)
        parts = parts.largest(_parts(style, right - left, bottom - top, steps))
    packets = layers * (parts.precincts + columns * rows * parts.levels) * bands
    places = (columns + parts.across) * (rows + parts.down) * bands * parts.levels
    if packets > _MOST_PACKETS or places > _MOST_PLACES:
        raise TooLarge("the JPEG 2000 image has too many tiles, precincts or layers")
    return int(columns * rows * (_TILE + _TILE_COMPONENT * bands) + bands * parts.size)


def _styles(data: bytes, at: int, bands: int, steps: _Steps) -> Iterator[tuple[int, bytes]]:
    """Each COD and COC: layers, whether it sets precincts, and fields from the levels on."""
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
            elif marker == _COD:
                layers = int.from_bytes(data[at + 6 : at + 8])
                yield layers, bytes([data[at + 4] & 1]) + data[at + 9 : at + 2 + length]
            elif marker == _COC:
                style = at + 5 + (bands > 256)
                yield 1, bytes([data[style] & 1]) + data[style + 1 : at + 2 + length]
            at += 2 + length
    except (struct.error, IndexError):
        return


def _parts(style: bytes, width: int, height: int, steps: _Steps) -> _Parts:
    total = precincts = across = down = 0
    try:
        own, levels, block_x, block_y = style[:4]
        for level in range(levels + 1):
            steps.count()
            size = style[6 + level] if own else _WHOLE * 17
            x, y = size & 15, size >> 4
            scale = levels - level
            wide, high = -(-width >> scale), -(-height >> scale)
            columns, rows = -(-wide >> x), -(-high >> y)
            across, down = max(across, columns), max(down, rows)
            precincts += columns * rows
            x, y = min(x, (block_x & 15) + 2), min(y, (block_y & 15) + 2)
            total += 3 * columns * rows * _PRECINCT + -(-wide >> x) * -(-high >> y) * _BLOCK
    except (ValueError, IndexError):
        return _Parts()
    return _Parts(total, levels + 1, precincts, across, down)


_RATIONAL, _SEGMENT = 8, 2**16  # bytes of the largest number, and of a JPEG's segment
# Of ftyp, as Pillow takes them: mif1 and msf1 may also hold another kind of image.
_AVIFS = {b"ftyp" + brand for brand in (b"avif", b"avis", b"mif1", b"msf1")}
_JP2 = b"\0\0\0\x0cjP  "


def check_numbers(data: bytes) -> None:
    """Refuse a file of many numbers, resources, items, samples, boxes or chunks.

    Pillow makes objects of them, and libraries structures, when it opens the file. EXIF data of a
    JPEG or AVIF counts as full of numbers.

    Raises:
        ImageError: There are too many.
    """
    numbers = 0
    if data.startswith((b"II", b"MM")):
        numbers = tiff.number_count(data)
    elif data.startswith(b"\xff\xd8") and len(data) > MOST_NUMBERS * _RATIONAL:
        numbers = data.count(b"Exif\0\0") * _SEGMENT // _RATIONAL + data.count(b"8BIM")
    elif data[4:12] in _AVIFS:
        view = memoryview(data)
        Boxes(view).check_items()
        numbers = Boxes(view).exif_bytes() // _RATIONAL + Boxes(view).sample_count()
    elif data.startswith(_JP2):
        check_jp2_boxes(data)
    elif data[8:12] == b"WEBP":
        numbers = _chunk_count(data)
    if numbers > MOST_NUMBERS:
        raise ImageError(_TOO_MANY)


def _chunk_count(data: bytes) -> int:
    """The chunks of a WebP, no further than the limit."""
    at, count = 12, 0
    while at + 8 <= len(data) and count <= MOST_NUMBERS:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
        count += 1
    return count
