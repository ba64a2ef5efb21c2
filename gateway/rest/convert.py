"""Between JSON bodies and the pipeline: the items of a request, and the answer of a model."""

import re
from collections.abc import Iterable, Sequence

import orjson
from fastapi import Response
from pydantic import BaseModel

from gateway.errors import MalformedRequest
from gateway.models.manifest import Manifest
from gateway.models.values import ImageItem, Item, TextItem
from gateway.rest.fields import ImageBytes, ImageLink, ImageObject, Part, TextObject, TextPart
from gateway.telemetry.record import Record

# What a string says of itself that is an image, or other bytes as base64. Texts are long.
_SAYS_IMAGE = re.compile(
    r"\s{0,100}data:(?:\s{0,100}image/|[^,]{0,200};\s{0,100}base64,)", re.IGNORECASE
)

Given = str | TextObject | ImageObject | ImageBytes | ImageLink


def items(given: Sequence[Given], param: str, modality: str | None = None) -> list[Item]:
    """The items of a list; `param` is the field that holds it."""
    return [item(entry, f"{param}[{index}]", modality) for index, entry in enumerate(given)]


def item(given: Given, param: str, modality: str | None = None) -> Item:
    """One item. A bare string is what `modality` says, or else what it says of itself."""
    match given:
        case TextObject():
            return TextItem(given.text, param)
        case ImageObject():
            return ImageItem(given.image, param)
        case ImageBytes():
            return ImageItem(given.bytes, param)
        case ImageLink():
            return ImageItem(given.url, param)
    if modality == "image" or (modality is None and _SAYS_IMAGE.match(given)):
        return ImageItem(given, param)
    return TextItem(given, param)


def texts(given: Sequence[str], param: str) -> list[TextItem]:
    """The texts of a list; `param` is the field that holds it."""
    return [TextItem(text, f"{param}[{index}]") for index, text in enumerate(given)]


def part(given: Part, param: str) -> Item:
    """A part of a message."""
    if isinstance(given, TextPart):
        return TextItem(given.text, f"{param}.text")
    return ImageItem(given.image_url.url, f"{param}.image_url.url")


def images(image: str | None, several: Sequence[str] | None) -> list[ImageItem]:
    """The images of a request. Raises MalformedRequest: it has not one of the two."""
    if (image is None) == (several is None):
        raise MalformedRequest("body: give either `image` or `images`")
    if image is not None:
        return [ImageItem(image, "image")]
    return [ImageItem(each, f"images[{index}]") for index, each in enumerate(several or ())]


class Usage(BaseModel):
    """What was embedded. Padding is not counted."""

    prompt_tokens: int
    total_tokens: int
    num_images: int


def usage(tokens: int, images: int) -> dict[str, int]:
    """What was embedded."""
    return {"prompt_tokens": tokens, "total_tokens": tokens, "num_images": images}


def answer(content: object, manifest: Manifest, record: Record) -> Response:
    """A response, with the headers that every answer of a model has."""
    return plain(content, headers(manifest, record))


def fragments(entries: Iterable[object]) -> list[orjson.Fragment]:
    """The entries of an answer, each as JSON by itself, so that other threads run in between."""
    return [orjson.Fragment(_json(entry)) for entry in entries]


def _json(content: object) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def headers(manifest: Manifest, record: Record) -> dict[str, str]:
    """The space that the vectors live in, and milliseconds by stage."""
    return {"x-model-fingerprint": manifest.fingerprint, "server-timing": record.server_timing}


def plain(content: object, headers: dict[str, str] | None = None) -> Response:
    """A response that no model gave."""
    return Response(_json(content), headers=headers, media_type="application/json")
