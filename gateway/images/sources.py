"""The sources of an image's bytes: raw bytes, base64, a data URL or a URL to fetch."""

import binascii
import re
import string

from gateway.errors import ImageError, MalformedRequest
from gateway.models.values import ImageItem

# Pillow detects the format, so any media type, or none, will do. Bounded, since texts are long.
_DATA_URL = re.compile(r"\s{0,100}data:[^,]{0,1000};\s{0,100}base64,", re.IGNORECASE)
_DATA = re.compile(r"\s{0,100}data:", re.IGNORECASE)
_NOT_FETCHED = (
    "this service does not fetch URLs (GATEWAY_FETCH_URLS); send the image as "
    "`data:image/...;base64,...`"
)
_SCHEME_CHARACTERS = 32  # before the colon; base64 has none


def web_url(item: ImageItem) -> str | None:
    """The URL to fetch an image from, of any scheme; None if the request holds the image itself."""
    data = item.data
    if isinstance(data, bytes) or _DATA.match(data):
        return None
    return data if ":" in data[:_SCHEME_CHARACTERS] else None


def check_source(item: ImageItem, *, fetches: bool) -> None:
    """Refuse an empty image, and a URL if the service does not fetch URLs.

    Raises:
        MalformedRequest: The image is empty, or a URL that is not fetched.
    """
    if not item.data:
        raise MalformedRequest(f"{item.param}: the image is empty", param=item.param)
    if not fetches and web_url(item) is not None:
        raise MalformedRequest(_NOT_FETCHED, code="url_not_allowed", param=item.param)


def image_bytes(item: ImageItem) -> bytes:
    """The encoded image of an item that `check_source` accepted.

    Raises:
        ImageError: A data URL is malformed, or base64 is invalid.
    """
    data = item.data
    if isinstance(data, bytes):
        return data
    if _DATA.match(data):
        match = _DATA_URL.match(data)
        if not match:
            raise ImageError("a data URL of an image must begin with `data:image/<type>;base64,`")
        data = data[match.end() :]
    return from_base64(data)


def from_base64(text: str) -> bytes:
    """Decode standard base64; ignore white space in it. Raises ImageError: it is not base64."""
    try:
        # Not `split`, which makes one string per letter if spaces separate all letters.
        stripped = text.encode("ascii").translate(None, string.whitespace.encode())
        return binascii.a2b_base64(stripped, strict_mode=True)
    except ValueError as error:  # binascii.Error, or characters beyond ASCII
        raise ImageError(f"the image is not valid base64: {error}") from error
