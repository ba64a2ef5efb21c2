"""Images that somebody made to hurt."""

import functools
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from gateway.images.preprocess import FORMATS
from tests.items import encoded

PNG = b"\x89PNG\r\n\x1a\n"
# Every format that Pillow can write, accepted here or not, and several kinds of some.
WRITTEN: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("JPEG", {}, "RGB"), ("JPEG", {"progressive": True}, "RGB"), ("JPEG", {}, "CMYK"),
    ("PNG", {}, "RGB"), ("PNG", {}, "P"), ("PNG", {}, "I;16"), ("PNG", {}, "1"),
    ("WEBP", {}, "RGB"), ("WEBP", {"lossless": True}, "RGBA"), ("GIF", {}, "P"), ("BMP", {}, "RGB"),
    ("DIB", {}, "RGB"), ("TIFF", {}, "RGB"), ("TIFF", {"compression": "tiff_lzw"}, "RGB"),
    ("TIFF", {"compression": "jpeg"}, "RGB"), ("TIFF", {"compression": "group4"}, "1"),
    ("PPM", {}, "RGB"), ("PPM", {}, "L"), ("AVIF", {}, "RGB"), ("JPEG2000", {}, "RGB"),
    ("BLP", {}, "P"), ("DDS", {}, "RGB"), ("EPS", {}, "RGB"), ("ICNS", {}, "RGB"),
    ("ICO", {}, "RGB"), ("MSP", {}, "1"), ("PCX", {}, "RGB"), ("QOI", {}, "RGB"),
    ("SGI", {}, "RGB"), ("SPIDER", {}, "F"), ("TGA", {}, "RGB"), ("XBM", {}, "1"),
    ("PDF", {}, "RGB"), ("MPO", {}, "RGB"),
)  # fmt: skip


@functools.cache
def seeds() -> list[bytes]:
    """A small valid file of each format."""
    generator = np.random.default_rng(7)
    pixels = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)
    return [encoded(image.convert(mode), name, **options) for name, options, mode in WRITTEN]


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """Bit flips, truncations and headers of one file before the rest of another."""
    chance = random.Random(seed)
    files = seeds()
    for number in range(count):
        data = bytearray(files[number % len(files)])
        kind = chance.randrange(4)
        if kind == 0:
            for _ in range(chance.choice((1, 4, 32))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == 1:  # in the header, where sizes and offsets are
            for _ in range(chance.choice((1, 3, 8))):
                data[chance.randrange(min(64, len(data)))] = chance.randrange(256)
        elif kind == 2:
            del data[chance.randrange(len(data)) :]
        else:
            other, cut = chance.choice(files), chance.choice((4, 16, 64, 200))
            data[:cut] = other[:cut]
        yield bytes(data)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, *before: bytes, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    image = png_chunk(b"IDAT", zlib.compress(data, 1)) + png_chunk(b"IEND", b"")
    return PNG + png_chunk(b"IHDR", header) + b"".join(before) + image


def with_garbage(kind: str) -> bytes:
    """A good little picture with garbage where its metadata should be."""
    image = Image.new("RGB", (64, 64), "red")
    garbage = random.Random(kind).randbytes(50_000)
    return encoded(image, "JPEG", **{kind: b"Exif\0\0" + garbage if kind == "exif" else garbage})


@functools.cache
def hazards() -> dict[str, bytes]:
    """Files that are each a trap of their own."""
    zeros = bytes(40_000_000)
    frames = [Image.new("P", (8, 8), number % 256) for number in range(10_000)]
    row = bytes([0]) + bytes(30_000 // 8)
    bomb = zlib.compressobj(9)
    return {
        "59,424 x 3 JPEG": encoded(Image.new("RGB", (59_424, 3)), "JPEG"),
        "3 x 59,424 PNG": encoded(Image.new("RGB", (3, 59_424)), "PNG"),
        "30,000 x 30,000 1-bit PNG": png(30_000, 30_000, 1, 0, data=row * 30_000),
        "GIF with 10,000 frames": encoded(
            frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False
        ),
        "40 MB of zlib zeros": zlib.compress(zeros, 9),
        "PNG with 40 MB of pixels too many": png(4, 4, 8, 2, data=zeros),
        "PNG with 40 MB in a text": png(
            4, 4, 8, 2, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(zeros, 9)), data=bytes(52)
        ),
        "PNG with 40 MB in a profile": png(
            4, 4, 8, 2, png_chunk(b"iCCP", b"k\0\0" + zlib.compress(zeros, 9)), data=bytes(52)
        ),
        "ICC garbage": with_garbage("icc_profile"),
        "EXIF garbage": with_garbage("exif"),
        "XMP garbage": with_garbage("xmp"),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "PDF": encoded(Image.new("RGB", (64, 64)), "PDF"),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "no width": png(0, 9, 8, 2, data=b""),
        "9 bytes that say 20,000 x 2,000": png(20_000, 2_000, 8, 2, data=bytes(9)),
        "a flood of empty blocks": PNG + png_chunk(b"tEXt", b"k\0v") * 100_000,
        "unfinished zlib": bomb.compress(zeros),
        "nothing": b"",
        "JPEG of 2,000,000 empty segments": after(2, b"\xff\xe5\0\2" * 2_000_000, "JPEG"),
        "JPEG of 4,000,000 resolutions": after(2, exif_of_resolutions(4_000_000), "JPEG"),
        "GIF of 4,000,000 comments": after(19, b"\x21\xfe" + b"\1a" * 4_000_000 + b"\0", "GIF"),
        "PNG of 1,000,000 empty chunks": after(33, png_chunk(b"prVt", b"") * 1_000_000, "PNG"),
        "JPEG 2000 of 65,025 tiles": jpeg2000(255, tile=1, levels=5),
        "JPEG 2000 of 1,000,000 precincts": jpeg2000(1_000, tile=1_000, levels=0, precincts=b"\0"),
        "JPEG 2000 of 1,000,000 styles": jpeg2000(64, tile=64, levels=32, styles=1_000_000),
        "run-length BMP of 7,000 x 7,000 pixels in 28 kB": rle_bmp(7_000, b"\1\0\0\0" * 7_000),
        "plain PPM of 3,000 x 3,000 pixels": b"P3 3000 3000 255 " + b"0 " * 15_000_000,
        "plain PPM of 5,000,000 comments": b"P3 64 64 255 " + b"#\n" * 5_000_000,
        "TIFF of 4,000,000 strips": tiff_of_numbers(273, 4, 4_000_000, 4),
        "TIFF of 4,000,000 resolutions": tiff_of_numbers(282, 5, 4_000_000, 8),
        "TIFF of 64 x 64 pixels in a tile of 30,000 x 30,000": tiff_of_one_tile(30_000),
        "AVIF of 2,000,000 orientations": avif_of_orientations(2_000_000),
        "AVIF of 64 x 64 pixels in a frame of 16,000 x 8,000": avif_of_a_large_frame(16_000, 8_000),
        "AVIF of 2,500,000 samples": avif_of_samples(2_500_000),
        "AVIF of 50,000 places of items": avif_of_items(box(b"iloc", iloc_entries(50_000))),
        "AVIF of 50,000 properties of items": avif_of_items(
            box(b"iprp", box(b"ipco", b"") + box(b"ipma", ipma_entries(50_000)))
        ),
        "AVIF of 50,000 references of items": avif_of_items(
            box(b"iref", bytes(4) + iref_boxes(50_000))
        ),
        "JPEG of 1,000 scans": jpeg_of_scans(3_000, 1_000),
        "JPEG of 2,700,000 Photoshop resources": after(2, 500 * photoshop_segment(5_400), "JPEG"),
        "PNG of 60 MB of texts in 60 kB": png_of_texts(60, 1_000_000),
        "JPEG 2000 of 1,000,000 boxes": jp2(box(b"free", b"") * 1_000_000),
        "JPEG 2000 of 100 palettes of 65,535 colours of no band": jp2(
            (HEADER_BOX + box(b"pclr", b"\xff\xff\0")) * 100
        ),
        "JPEG 2000 of 1,000,000 places for packets": jpeg2000(
            1_000, tile=1_000, levels=0, precincts=b"\xf0", more=packets_by_place(30)
        ),
        "JPEG 2000 of 65,535 layers in 100 tiles": jpeg2000(
            100, tile=10, levels=5, layers=65_535, tiles=100
        ),
        "WebP of 3,000,000 chunks": webp_of_chunks(3_000_000),
        "TIFF of 1,000,000 exposure times": tiff_of_exposures(1_000_000),
        "TIFF of 1,200 strips over each other": tiff_of_covers(7_000, 1_200),
        "TIFF of 2,000 strips that share a megabyte": tiff_of_shared_strips(2_000, 200_000),
        "TIFF of 200 tiles of 16 x 1,000,000 pixels": tiff_of_tall_tiles(200, 1_000_000),
    }


def after(place: int, more: bytes, name: str) -> bytes:
    """A small picture with something at this place of its file."""
    data = encoded(Image.new("P", (16, 16)).convert("P" if name == "GIF" else "RGB"), name)
    return data[:place] + more + data[place:]


def exif_of_resolutions(count: int) -> bytes:
    """JPEG segments with EXIF data that holds a number of horizontal resolutions."""
    entries = struct.pack("<HHIIHHII", 0x011A, 5, count, 38, 0x0128, 3, 1, 2)
    exif = b"II*\0\x08\0\0\0\2\0" + entries + bytes(4) + bytes(8 * count)
    pieces = [exif[at : at + 65_527] for at in range(0, len(exif), 65_527)]
    return b"".join(
        struct.pack(">HH", 0xFFE1, 8 + len(each)) + b"Exif\0\0" + each for each in pieces
    )


def avif_of_orientations(count: int, frames: int = 1) -> bytes:
    """A picture, or an animation, with EXIF data that holds a number of orientations."""
    place, software, orientation = b"II*\0\x08\0\0\0\1\0", 0x0131, 0x0112
    short = struct.pack("<HHII", software, 3, 1, 0)  # Pillow would read an orientation itself
    exif = place + short + bytes(4) + bytes(8 * count)
    image, *more = (Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(frames))
    data = encoded(image, "AVIF", exif=exif, save_all=frames > 1, append_images=more)
    assert data.count(short) == 1
    return data.replace(short, struct.pack("<HHII", orientation, 5, count, 26))


def avif_of_samples(count: int) -> bytes:
    """An animation whose only chunk has a number of samples of one byte."""
    frames = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(2)]
    data = bytearray(encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:]))
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 1, count)
    struct.pack_into(">I", data, data.index(b"stsc") + 16, count)
    return bytes(data) + bytes(count)


def avif_of_items(table: bytes) -> bytes:
    """A file that names items, of which none holds a picture."""
    handler = box(b"hdlr", bytes(8) + b"pict" + bytes(13))
    meta = box(b"meta", bytes(4) + handler + table)
    return box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + meta


def iloc_entries(count: int) -> bytes:
    entries = (struct.pack(">HHH", number + 1, 0, 0) for number in range(count))
    return bytes(6) + struct.pack(">H", count) + b"".join(entries)


def ipma_entries(count: int) -> bytes:
    entries = (struct.pack(">HB", number + 1, 0) for number in range(count))
    return bytes(4) + struct.pack(">I", count) + b"".join(entries)


def iref_boxes(count: int) -> bytes:
    entries = (struct.pack(">HHH", number + 1, 1, 1) for number in range(count))
    return b"".join(box(b"cdsc", each) for each in entries)


def jpeg_of_scans(side: int, count: int) -> bytes:
    """A progressive grey picture whose last scan comes a number of times more."""
    data = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + data[-2:]


def jpeg_in_scans(width: int, height: int) -> bytes:
    """A sequential picture with a scan for each of its three bands, without a pixel."""
    data = encoded(Image.new("RGB", (16, 16)), "JPEG", subsampling=0)
    head = data[: data.index(b"\xff\xda")]
    head = head.replace(struct.pack(">HH", 16, 16), struct.pack(">HH", height, width))
    scans = (bytes([1, band, table, 0, 63, 0]) for band, table in ((1, 0), (2, 17), (3, 17)))
    return head + b"".join(segment(0xDA, each) + bytes(100) for each in scans) + b"\xff\xd9"


def webp_of_chunks(count: int) -> bytes:
    """A small picture, then chunks that nobody knows."""
    picture = encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[12:]
    head = b"VP8X" + struct.pack("<IIHBHB", 10, 0, 15, 0, 15, 0)
    chunks = b"WEBP" + head + picture + (b"free" + bytes(4)) * count
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def photoshop_segment(count: int) -> bytes:
    return segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * count)


def png_of_texts(count: int, size: int) -> bytes:
    """A picture with texts that compress well; one character in each takes four bytes."""
    text = zlib.compress(b"a" * size + "\U0001f600".encode())
    texts = (png_chunk(b"iTXt", b"%d\0\1\0\0\0" % number + text) for number in range(count))
    return png(4, 4, 8, 2, *texts, data=bytes(52))


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


HEADER_BOX = box(b"ihdr", struct.pack(">IIHBBBB", 64, 64, 1, 7, 7, 0, 0))


def jp2(boxes: bytes) -> bytes:
    """The start of a JPEG 2000 file, with more boxes in its header."""
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", HEADER_BOX + boxes)


def packets_by_place(times: int) -> bytes:
    """High precincts where the first band has wide ones, and changes of the order of packets."""
    style = segment(0x53, b"\1\1\0\4\4\0\1\x0f")
    return style + segment(0x5F, struct.pack(">BBHBBB", 0, 0, 1, 33, 3, 2) * times)


def jpeg2000(
    side: int,
    *,
    tile: int,
    levels: int,
    precincts: bytes = b"",
    styles: int = 0,
    more: bytes = b"",
    layers: int = 1,
    tiles: int = 1,
) -> bytes:
    """A codestream of three bands, without a pixel; more styles follow a comment."""
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile, tile, 0, 0, 3) + b"\7\1\1" * 3
    style = struct.pack(">BBHB", bool(precincts), 0, layers, 0) + bytes([levels, 4, 4, 0, 1])
    style += precincts
    steps = b"\x20" + bytes(1 + 3 * levels)
    comment = segment(0x64, b"\0\1") + styles * segment(0x52, style) if styles else b""
    head = segment(0x51, size) + segment(0x52, style) + segment(0x5C, steps) + more + comment
    parts = (
        segment(0x90, struct.pack(">HIBB", number, 114 if tiles > 1 else 0, 0, 1))
        + b"\xff\x93"
        + bytes(100)
        for number in range(tiles)
    )
    return b"\xff\x4f" + head + b"".join(parts) + b"\xff\xd9"


def segment(kind: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 255, kind, len(data) + 2) + data


def rle_bmp(side: int, data: bytes) -> bytes:
    """A square grey picture of these runs."""
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256))
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<III", offset + len(data), 0, offset) + head + palette + data


def tiff(data: bytes, **values: int | tuple[int, int, int]) -> bytes:
    """A grey TIFF of these bytes, which begin at 8, and these values by tag: `_256=width`.

    A value is a number, or type, count and place.
    """
    entries: dict[int, int | tuple[int, int, int]] = {258: 8, 259: 1, 262: 1, 277: 1}
    entries |= {int(tag[1:]): value for tag, value in values.items()}
    parts = (
        (tag, *((4, 1, each) if isinstance(each, int) else each)) for tag, each in entries.items()
    )
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    packed = b"".join(struct.pack("<HHII", *each) for each in sorted(parts))
    return head + data + struct.pack("<H", len(entries)) + packed + bytes(4)


def tiff_of_one_tile(side: int) -> bytes:
    """64 x 64 grey pixels in a tile that is far larger."""
    tile = zlib.compress(bytes(side * side))
    return tiff(tile, _256=64, _257=64, _259=8, _322=side, _323=side, _324=8, _325=len(tile))


def tiff_of_tall_tiles(count: int, height: int) -> bytes:
    """16 x 64 grey pixels in each tile, of which all share their bytes."""
    tile = zlib.compress(bytes(16 * height))
    places, sizes = numbers([8] * count), numbers([len(tile)] * count)
    at = 8 + len(tile)
    return tiff(
        tile + places + sizes, _256=16 * count, _257=64, _259=8, _322=16, _323=height,
        _324=(4, count, at), _325=(4, count, at + len(places)),
    )  # fmt: skip


def tiff_of_shared_strips(count: int, empty: int) -> bytes:
    """Rows of 64 grey pixels that all begin with the same empty blocks."""
    row = b"\x78\1" + b"\0\0\0\xff\xff" * empty + zlib.compress(bytes(64))[2:]
    places, sizes = numbers([8] * count), numbers([len(row)] * count)
    at = 8 + len(row)
    return tiff(
        row + places + sizes, _256=64, _257=count, _259=8, _278=1, _273=(4, count, at),
        _279=(4, count, at + len(places)),
    )  # fmt: skip


def tiff_of_covers(side: int, count: int) -> bytes:
    """Black and white; of its strips, which share their bytes, two cover all of the picture."""
    pixels = bytes(side // 8 * side)
    strips = 4, count, 8 + len(pixels)
    data = pixels + numbers([8] * count)
    return tiff(data, _256=side, _257=side, _258=1, _278=side - 1, _273=strips)


def tiff_of_numbers(tag: int, kind: int, count: int, size: int) -> bytes:
    """A TIFF of 64 x 64 uncompressed grey pixels, with a number of values in one tag."""
    values: dict[str, int | tuple[int, int, int]] = {"_256": 64, "_257": 64, "_273": 8, "_278": 1}
    return tiff(bytes(size * count), **values | {f"_{tag}": (kind, count, 8)})


def tiff_of_exposures(count: int) -> bytes:
    """A TIFF of 64 x 64 uncompressed grey pixels, with exposure times in its EXIF data."""
    times = bytes(8 * count)
    exif = struct.pack("<HHHII", 1, 0x829A, 5, count, 8) + bytes(4)
    return tiff(times + exif, _256=64, _257=64, _273=8, _278=64, _34665=8 + len(times))


def numbers(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def avif_of_a_large_frame(width: int, height: int) -> bytes:
    """64 x 64 pixels, says the file; the AV1 frame in it is larger."""
    data = encoded(Image.new("RGB", (width, height)), "AVIF", subsampling="4:4:4", speed=10)
    size = struct.Struct(">4sIII")
    return data.replace(size.pack(b"ispe", 0, width, height), size.pack(b"ispe", 0, 64, 64))


def accepted_seeds() -> int:
    """How many of the seeds are of a format that is accepted."""
    return sum(name in {*FORMATS, "MPO"} for name, _, _ in WRITTEN)
