"""Fields of a REST request -> items for the engine, within the limits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import ImageError, MalformedRequest, TooLarge
from gateway.rest.schemas import ImageObject, TextObject
from gateway.values import ImageItem, Item, TextItem

_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[^,;]*)*;base64,", re.IGNORECASE)
_IMAGE_SCHEME = "data:image/"


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How much one request may ask for."""

    max_items: int
    max_labels: int
    max_prompts: int
    max_text_characters: int

    def items(self, count: int, param: str) -> None:
        """Refuses more items than a request may hold."""
        if count > self.max_items:
            raise _over(param, count, "items", "GATEWAY_MAX_ITEMS", self.max_items)

    def labels(self, labels: int, templates: int) -> None:
        """Refuses more labels, or labels times templates, than a request may hold."""
        if labels > self.max_labels:
            raise _over("labels", labels, "labels", "GATEWAY_MAX_LABELS", self.max_labels)
        if labels * templates > self.max_prompts:
            what = "labels times templates"
            raise _over("labels", labels * templates, what, "GATEWAY_MAX_PROMPTS", self.max_prompts)

    def text(self, text: str, param: str) -> str:
        """Refuses a text longer than one may be."""
        if len(text) > self.max_text_characters:
            raise _over(
                param,
                len(text),
                "characters",
                "GATEWAY_MAX_TEXT_CHARACTERS",
                self.max_text_characters,
            )
        return text


def embedding_items(
    given: str | TextObject | ImageObject | list[str | TextObject | ImageObject],
    limits: RequestLimits,
) -> list[Item]:
    """The items of an embeddings request, in order.

    Raises:
        TooLarge: There are too many, or one is too long.
        ImageError: A `data:image/` URL is malformed.
    """
    if not isinstance(given, list):
        return [_item(given, "input", limits)]
    limits.items(len(given), "input")
    return [_item(entry, f"input[{index}]", limits) for index, entry in enumerate(given)]


def images(given: Sequence[str], param: str, limits: RequestLimits) -> list[ImageItem]:
    """The images of a request, in order; `param` is the field that holds them.

    Raises: As `embedding_items`.
    """
    limits.items(len(given), param)
    several = param == "images"
    return [
        _image(text, f"{param}[{index}]" if several else param) for index, text in enumerate(given)
    ]


def _item(given: str | TextObject | ImageObject, param: str, limits: RequestLimits) -> Item:
    if isinstance(given, ImageObject):
        return _image(given.image, param)
    text = given.text if isinstance(given, TextObject) else given
    # Only a bare string may turn out to be an image; {"text": ...} is text whatever it says.
    if isinstance(given, str) and text[: len(_IMAGE_SCHEME)].lower() == _IMAGE_SCHEME:
        return _image(text, param)
    return TextItem(limits.text(text, param), param)


def _image(text: str, param: str) -> ImageItem:
    if text[:5].lower() == "data:":
        match = _DATA_URL.match(text)
        if not match:
            raise ImageError(
                "a data URL of an image must begin with `data:image/<type>;base64,`", param=param
            )
        return ImageItem(text[match.end() :], param)
    if re.match(r"https?://", text, re.IGNORECASE):
        raise MalformedRequest(
            "this service does not fetch URLs; send the image as `data:image/...;base64,...`",
            param=param,
        )
    return ImageItem(text, param)


def _over(param: str, count: int, what: str, setting: str, limit: int) -> TooLarge:
    return TooLarge(f"{param}: {count:,} {what}; the limit ({setting}) is {limit:,}", param=param)
