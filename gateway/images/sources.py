"""Where the bytes of an image come from: as they are, base64, or a data URL."""

import re

from gateway.errors import ImageError, MalformedRequest
from gateway.images.preprocess import from_base64
from gateway.models.values import ImageItem

# Pillow finds out what it is: the media type may be any, or missing. Bounded, since texts are long.
_DATA_URL = re.compile(r"\s{0,100}data:[^,]{0,1000};\s{0,100}base64,", re.IGNORECASE)
_DATA = re.compile(r"\s{0,100}data:", re.IGNORECASE)
_NOT_FETCHED = (
    "this service does not fetch URLs (GATEWAY_FETCH_URLS); send the image as "
    "`data:image/...;base64,...`"
)
_SCHEME_CHARACTERS = 32  # before the colon; base64 has none


def web_url(item: ImageItem) -> str | None:
    """The URL that an image is to be fetched from, of whatever scheme; None where it is here."""
    data = item.data
    if isinstance(data, bytes) or _DATA.match(data):
        return None
    return data if ":" in data[:_SCHEME_CHARACTERS] else None


def check_source(item: ImageItem, *, fetches: bool) -> None:
    """Refuses an image of no bytes, and a URL where those are not fetched.

    Raises:
        MalformedRequest: It is one of them.
    """
    if not item.data:
        raise MalformedRequest(f"{item.param}: the image is empty", param=item.param)
    if not fetches and web_url(item) is not None:
        raise MalformedRequest(_NOT_FETCHED, code="url_not_allowed", param=item.param)


def image_bytes(item: ImageItem) -> bytes:
    """The encoded image, of an item that `check_source` let pass.

    Raises:
        ImageError: A data URL is malformed, or what should be base64 is not.
    """
    if isinstance(item.data, bytes):
        return item.data
    if _DATA.match(item.data):
        match = _DATA_URL.match(item.data)
        if not match:
            raise ImageError("a data URL of an image must begin with `data:image/<type>;base64,`")
        return from_base64(item.data[match.end() :])
    return from_base64(item.data)
