"""What AVIFs make their decoder hold, wherever in the file the AV1 streams are."""

import struct
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise

import pytest
from PIL import Image

from gateway.errors import ImageError
from gateway.images.boxes import Boxes
from tests.gateway.hostile import avif_of_orientations
from tests.items import encoded


def frames_bytes(data: bytes) -> int:
    return Boxes(memoryview(data)).frames_bytes()


def exif_bytes(data: bytes) -> int:
    return Boxes(memoryview(data)).exif_bytes()


WIDE, HIGH = 1_000, 800
FRAME = WIDE * HIGH * 3  # bytes at 4:2:0
SEQUENCE = 1
DELIMITER = b"\x12\0"


def box(kind: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def stream() -> bytes:
    """The AV1 stream of a picture: a delimiter, a sequence header and a frame."""
    data = encoded(Image.new("RGB", (WIDE, HIGH), "red"), "AVIF", subsampling="4:2:0")
    return data[data.rindex(b"mdat") + 4 :]


def obus() -> list[tuple[int, bytes]]:
    """Types and contents of the OBUs, without the delimiter; all are short."""
    data, found = stream()[2:], []
    while data:
        size, start = data[1] & 127, 2
        if data[1] > 127:
            size, start = size | data[2] << 7, 3
        found.append((data[0] >> 3, data[start : start + size]))
        data = data[start + size :]
    return found


def sized(kind: int, body: bytes, *extension: int) -> bytes:
    head = kind << 3 | 2 | 4 * len(extension)
    return bytes([head, *extension, len(body) & 127 | 128, len(body) >> 7]) + body


def avif(
    *streams: bytes,
    idat: bool = False,
    parts: int = 1,
    version: int = 1,
    mdats: bool = False,
    grid: bool = False,
) -> bytes:
    """A picture that says it has 64 x 64 pixels, or a grid of four of those."""
    payloads = [*streams, struct.pack(">HBBHH", 0, 1, 1, 128, 128)] if grid else list(streams)
    kinds = [b"av01"] * len(streams) + [b"grid"] * grid
    primary = len(payloads)
    infes = [
        box(b"infe", struct.pack(">BxxxHH4sx", 2, number, 0, kind))
        for number, kind in enumerate(kinds, 1)
    ]
    size, whole = (box(b"ispe", struct.pack(">III", 0, side, side)) for side in (64, 128))
    config = box(b"av1C", b"\x81\0\x0c\0")
    pixels = box(b"pixi", b"\0\0\0\0\3\x08\x08\x08")
    links = b"".join(
        struct.pack(">HBBBB", number, 3, 4 if kind == b"grid" else 1, 2, 0x83)
        for number, kind in enumerate(kinds, 1)
    )
    ipma = box(b"ipma", struct.pack(">II", 0, primary), links)
    references = box(
        b"dimg",
        struct.pack(">HH", primary, len(streams)),
        *(struct.pack(">H", number) for number in range(1, primary)),
    )

    def meta(start: int) -> bytes:
        places = b""
        for number, payload in enumerate(payloads, 1):
            cuts = [len(payload) * part // parts for part in range(parts + 1)]
            wide = ">I" if version == 2 else ">H"
            places += struct.pack(wide, number) + struct.pack(">H", idat) * bool(version)
            places += struct.pack(">HQH", 0, start, parts)
            for first, last in pairwise(cuts):
                gap = 8 * (mdats and first > 0)
                places += struct.pack(">II", first + gap, last - first)
            start += len(payload) + 8 * mdats
        count = struct.pack(">I" if version == 2 else ">H", len(payloads))
        return box(
            b"meta", bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, primary)),
            box(b"iloc", bytes([version, 0, 0, 0, 0x44, 0x80]), count, places),
            box(b"iinf", struct.pack(">IH", 0, primary), *infes),
            box(b"iref", bytes(4), references) if grid else b"",
            box(b"iprp", box(b"ipco", size, pixels, config, whole), ipma),
            box(b"idat", *payloads) if idat else b"",
        )  # fmt: skip

    head = box(b"ftyp", b"avif\0\0\0\0avifmif1miaf")
    start = 0 if idat else len(head) + len(meta(0)) + 8
    if idat:
        return head + meta(0)
    if mdats:
        [payload] = payloads
        half = len(payload) // 2
        return head + meta(start) + box(b"mdat", payload[:half]) + box(b"mdat", payload[half:])
    return head + meta(start) + box(b"mdat", *payloads)


def many_frames() -> bytes:
    (_, header), (kind, frame) = obus()
    return DELIMITER + sized(SEQUENCE, header) + sized(kind, frame) * 3


def extended() -> bytes:
    return DELIMITER + b"".join(sized(kind, body, 0) for kind, body in obus())


def unsized() -> bytes:
    (_, header), (kind, frame) = obus()
    return sized(SEQUENCE, header) + bytes([kind << 3]) + frame


@pytest.mark.parametrize(
    ("make", "frames"),
    [
        (lambda: avif(stream()), 1),
        (lambda: avif(stream(), version=0), 1),
        (lambda: avif(stream(), version=2), 1),
        (lambda: avif(stream(), idat=True), 1),
        (lambda: avif(stream(), parts=7), 1),
        (lambda: avif(stream(), parts=2, mdats=True), 1),
        (lambda: avif(extended()), 1),
        (lambda: avif(unsized()), 1),
        (lambda: avif(many_frames()), 3),
        (lambda: avif(*[stream()] * 4, grid=True), 4),
    ],
    ids=[
        "mdat", "iloc 0", "iloc 2", "idat", "7 extents", "2 mdats", "extended", "unsized",
        "3 frames", "grid",
    ],
)  # fmt: skip
def test_streams_are_found(make: Callable[[], bytes], frames: int) -> None:
    data = make()
    with Image.open(BytesIO(data)) as image:
        image.load()  # as libavif reads it
    assert frames * FRAME <= frames_bytes(data) < (frames + 0.5) * FRAME


@pytest.mark.parametrize("alpha", [False, True])
def test_of_an_animation_the_first_frame_counts(alpha: bool) -> None:
    image, *more = (
        Image.new("RGBA", (WIDE, HIGH), (50 * number, 0, 0, 155)).convert(
            "RGBA" if alpha else "RGB"
        )
        for number in range(5)
    )
    data = encoded(image, "AVIF", save_all=True, append_images=more)
    allowed = 2**20 * 4  # its frames may be of any size whose sides take as many bits
    assert (1 + alpha) * allowed <= frames_bytes(data) < (1.5 + alpha) * allowed


@pytest.mark.parametrize(
    "data",
    [
        avif(stream()[:-1]),
        avif(stream() + b"\x32\xff"),
        avif(stream())[:-1],
        avif(DELIMITER * 100_000),
        avif(b"\x0a\1\0"),
        avif(DELIMITER),
    ],
    ids=["short", "long", "cut", "100,000 OBUs", "sequence header of a byte", "no frame"],
)
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        frames_bytes(data)


@pytest.mark.parametrize("frames", [1, 3])
def test_exif_data_are_found(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = avif_of_orientations(1_000, frames), list[bytes]()
    monkeypatch.setattr(Image.Exif, "load", lambda _, exif: read.append(exif))
    with Image.open(BytesIO(data)):
        assert [4 + len(exif) for exif in read] == [exif_bytes(data)]  # after the header's offset
    assert len(read[0]) > 8_000
    assert exif_bytes(encoded(Image.new("RGB", (64, 64)), "AVIF")) == 0
