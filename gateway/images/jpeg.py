"""What a JPEG costs to decode besides its pixels: coefficients, and passes over them."""

import re

from PIL import Image

from gateway.errors import ImageError

# A scan passes over all pixels; a very small one takes as long as this many pixels. The limit is 20
# scans of 50 megapixels, where 10 are usual; they take up to two seconds.
_MOST_SCANNED, _FEWEST_PIXELS = 2**30, 2**13
_MOST_SEGMENTS = 2**18
_COEFFICIENT = 2  # bytes
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # without those in the midst of a scan
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA


def coefficient_bytes(image: Image.Image, data: bytes) -> int:
    """Memory of the coefficients that libjpeg keeps if a picture has several scans.

    Raises:
        ImageError: It has too many scans.
    """
    if image.format not in {"JPEG", "MPO"}:
        return 0
    scans = _scans(data)
    pixels, bands = image.width * image.height, len(image.getbands())
    if len(scans) * max(pixels, _FEWEST_PIXELS) > _MOST_SCANNED:
        raise ImageError(f"the JPEG has too many scans for its size: {len(scans):,}")
    if image.info.get("progressive") or scans[:1] < [bands]:
        return _COEFFICIENT * bands * pixels
    return 0


def _scans(data: bytes) -> list[int]:
    """The number of components in each scan of the first picture."""
    scans: list[int] = []
    at = 2
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if not found:
            return scans
        kind, at = data[found.end() - 1], found.end()
        if kind in {_START, _END}:
            return scans
        if kind == _SCAN:
            scans += data[at + 2 : at + 3]
        at += int.from_bytes(data[at : at + 2])
    raise ImageError("the image consists of too many parts")
