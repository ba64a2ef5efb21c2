"""Reads an image's header, before decoding: the memory that it takes, and its orientation."""

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

ORIENTATION, _BITS, _SAMPLES = 0x0112, 258, 277  # tags of EXIF and TIFF
_MOST_EXIF_BYTES = 2**20  # the tag itself may hold as many numbers, each of which becomes an object
# Where Pillow looks for EXIF data, and for an orientation if there is none.
_SOURCES = "exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"
_TURNS = {  # by the value of the tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = {_TURNS[each] for each in (5, 6, 7, 8)}  # these exchange width and height

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_ALPHA = {"RGBA", "LA", "PA"}  # the resize premultiplies a copy

# Bytes per pixel that a decoder holds besides Pillow's own image, measured at 20 megapixels.
_WEBP, _AVIF, _TIFF = 14, 6, 4
_JPEG2000_BAND = 5


def decode_bytes(image: Image.Image, *, turned: bool = False) -> int:
    """Estimate the peak memory of decoding and resizing an opened image, in bytes.

    The image is not loaded yet. If `turned`, applying its EXIF orientation takes a copy. A JPEG's
    coefficients are not counted.
    """
    stored = _STORED.get(image.mode, 4)
    copies = 1 + turned + (image.mode in _ALPHA)
    return image.width * image.height * (stored * copies + _decoder_bytes(image))


def _decoder_bytes(image: Image.Image) -> int:
    if image.format == "JPEG2000":
        return _JPEG2000_BAND * len(image.getbands())
    if isinstance(image, TiffImageFile):
        bits: tuple[int, ...] = image.tag_v2.get(_BITS, (1,))
        samples: int = image.tag_v2.get(_SAMPLES, 1)
        strips = max(bits) * max(samples, len(bits)) // 8
        copied = 4 if image.mode in _ALPHA else 0  # once the strips are freed
        return max(_TIFF, strips - copied)
    return {"WEBP": _WEBP, "AVIF": _AVIF}.get(image.format or "", 0)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """The transpose for the image's EXIF orientation; None without one, or with bad EXIF."""
    if any(len(image.info.get(name) or b"") > _MOST_EXIF_BYTES for name in _SOURCES):
        return None
    try:
        # Not PNG's own method, which decodes the image to find EXIF data after the pixels.
        found = Image.Image.getexif(image).get(ORIENTATION)
    except Exception:  # bad EXIF makes Pillow raise anything; the pixels may be fine
        return None
    return _TURNS.get(found) if isinstance(found, int) else None


def swaps(turn: Image.Transpose | None) -> bool:
    """Whether a transpose exchanges width and height."""
    return turn in _SWAPPING
