"""Fields of a REST request -> items for the engine."""

from collections.abc import Sequence

from gateway.errors import MalformedRequest
from gateway.images.sources import is_data_url
from gateway.models.values import ImageItem, Item, TextItem
from gateway.rest.fields import ImageBytes, ImageLink, ImageObject, Message, TextObject, TextPart
from gateway.rest.schemas import EmbeddingsRequest

Given = str | TextObject | ImageObject | ImageBytes | ImageLink


def embedding_items(asked: EmbeddingsRequest) -> list[Item]:
    """The items of an embeddings request, in order.

    Raises:
        MalformedRequest: There is neither `input` nor `messages`, or both.
    """
    if (asked.input is None) == (asked.messages is None):
        raise MalformedRequest("input: give either `input` or `messages`", param="input")
    if asked.messages is not None:
        return [_of_message(asked.messages[0])]
    if isinstance(asked.input, list):
        return items(asked.input, "input", asked.modality)
    return [] if asked.input is None else [item(asked.input, "input", asked.modality)]


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
    if modality == "image" or (modality is None and is_data_url(given)):
        return ImageItem(given, param)
    return TextItem(given, param)


def images(image: str | None, several: Sequence[str] | None) -> list[ImageItem]:
    """The images of a request that has either one or a list."""
    if image is not None:
        return [ImageItem(image, "image")]
    return [ImageItem(each, f"images[{index}]") for index, each in enumerate(several or ())]


def _of_message(message: Message) -> Item:
    where = "messages[0].content"
    if isinstance(message.content, str):
        return TextItem(message.content, where)
    [part] = message.content
    if isinstance(part, TextPart):
        return TextItem(part.text, f"{where}[0].text")
    return ImageItem(part.image_url.url, f"{where}[0].image_url.url")
