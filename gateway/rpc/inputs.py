"""Messages -> what the engine is asked."""

from collections.abc import Iterable, Mapping, Sequence

from gateway.errors import MalformedRequest, RequestError
from gateway.models.values import ImageItem, Item, TextItem
from gateway.pipeline import requests
from openclip_api.v1 import clip_pb2

Unread = Mapping[int, RequestError]  # by index: entries of the input that are no items


def item(message: clip_pb2.Item, param: str) -> Item:
    """A text or an image; `param` is where in the request it stands.

    Raises:
        MalformedRequest: It is neither, or an image of no bytes.
    """
    kind = message.WhichOneof("content")
    if kind is None:
        raise MalformedRequest(f"{param}: give `text`, `image` or `image_url`", param=param)
    if kind == "text":
        return TextItem(message.text, param)
    data = message.image if kind == "image" else message.image_url
    if not data:
        raise MalformedRequest(f"{param}: the image is empty", param=param)
    return ImageItem(data, param)


def embed(message: clip_pb2.EmbedRequest) -> tuple[requests.Embed, Unread]:
    """What an EmbedRequest asks; and, where bad items are skipped, what is wrong with some already.

    In the place of each of these stands an empty text, which the engine skips as well.

    Raises:
        MalformedRequest: An item is none, and bad ones are not skipped.
    """
    items: list[Item] = []
    unread: dict[int, RequestError] = {}
    for index, each in enumerate(message.input):
        param = f"input[{index}]"
        try:
            items.append(item(each, param))
        except RequestError as error:
            if not message.skip_errors:
                raise
            items.append(TextItem("", param))
            unread[index] = error
    asked = requests.Embed(
        message.model or None,
        items,
        dimensions=message.dimensions if message.HasField("dimensions") else None,
        truncate=message.truncate if message.HasField("truncate") else True,
        skip=message.skip_errors,
    )
    return asked, unread


def classify(message: clip_pb2.ClassifyRequest) -> requests.Classify:
    """What a ClassifyRequest asks.

    Raises:
        MalformedRequest: Templates are given twice, or an image is none.
    """
    if message.templates and message.template_set:
        raise MalformedRequest(
            "templates: give either `templates` or `template_set`", param="templates"
        )
    return requests.Classify(
        message.model or None,
        _images(message.images),
        labels=list(message.labels) or None,
        label_set=message.label_set or None,
        templates=list(message.templates) or message.template_set or None,
        top_k=message.top_k if message.HasField("top_k") else None,
    )


def similarity(message: clip_pb2.SimilarityRequest) -> requests.Similarity:
    """What a SimilarityRequest asks."""
    texts = [TextItem(text, f"texts[{index}]") for index, text in enumerate(message.texts)]
    return requests.Similarity(message.model or None, texts, _images(message.images))


def rerank(message: clip_pb2.RerankRequest) -> requests.Rerank:
    """What a RerankRequest asks."""
    return requests.Rerank(
        message.model or None,
        item(message.query, "query"),
        _items(message.documents, "documents"),
        top_n=message.top_n if message.HasField("top_n") else None,
    )


def _items(messages: Iterable[clip_pb2.Item], param: str) -> list[Item]:
    return [item(each, f"{param}[{index}]") for index, each in enumerate(messages)]


def _images(messages: Sequence[clip_pb2.Item]) -> list[ImageItem]:
    images = []
    for each in _items(messages, "images"):
        if isinstance(each, TextItem):
            raise MalformedRequest(f"{each.param}: must be an image", param=each.param)
        images.append(each)
    return images
