"""Between JSON bodies and the pipeline: the items of a request, and results as an answer."""

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from gateway.errors import GatewayError, MalformedRequest
from gateway.models.gate import Gate
from gateway.models.manifest import Manifest
from gateway.models.registry import Models
from gateway.models.values import Embedded, ImageItem, Item, Prediction, TextItem, Vectors
from gateway.rest.fields import ImageBytes, ImageLink, ImageObject, Message, TextObject, TextPart
from gateway.rest.problems import error_object
from gateway.rest.schemas import EmbeddingsRequest
from gateway.telemetry.record import Record

# What a string says of itself that is an image, or other bytes as base64. Texts are long.
_SAYS_IMAGE = re.compile(
    r"\s{0,100}data:(?:\s{0,100}image/|[^,]{0,200};\s{0,100}base64,)", re.IGNORECASE
)

Given = str | TextObject | ImageObject | ImageBytes | ImageLink


def embedding_items(body: EmbeddingsRequest) -> list[Item]:
    """The items of an embeddings request, in order.

    Raises:
        MalformedRequest: There is neither `input` nor `messages`, or both.
    """
    if (body.input is None) == (body.messages is None):
        raise MalformedRequest("input: give either `input` or `messages`", param="input")
    if body.messages is not None:
        return [_of_message(body.messages[0])]
    if isinstance(body.input, list):
        return items(body.input, "input", body.modality)
    return [] if body.input is None else [item(body.input, "input", body.modality)]


def encoding(body: EmbeddingsRequest) -> str:
    """The encoding of the vectors.

    Raises:
        MalformedRequest: It is given under both of its names.
    """
    if body.encoding_format and body.embedding_type:
        raise MalformedRequest("body: give either `encoding_format` or `embedding_type`")
    return body.encoding_format or body.embedding_type or "float"


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


def images(image: str | None, several: Sequence[str] | None) -> list[ImageItem]:
    """The images of a request.

    Raises:
        MalformedRequest: It has neither one nor a list of them, or both.
    """
    if (image is None) == (several is None):
        raise MalformedRequest("body: give either `image` or `images`")
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


def embedding_objects(embedded: Embedded, encoding: str) -> list[dict[str, Any]]:
    """One object for each item: its embedding, or its error."""
    return [
        _failed(index, embedded.failed[index])
        if index in embedded.failed
        else {"object": "embedding", "index": index, "embedding": row}
        | ({"truncated": True} if embedded.truncated[index] else {})
        for index, row in enumerate(_encoded(embedded.vectors, encoding))
    ]


def prediction(entry: Prediction) -> dict[str, Any]:
    """One label with its score."""
    return {
        "label": entry.label,
        "index": entry.index,
        "score": entry.score,
        "cosine": entry.cosine,
    }


def document(item: Item) -> dict[str, Any]:
    """A document as it was sent."""
    return {"text": item.text} if isinstance(item, TextItem) else {"image": item.data}


def usage(tokens: int, images: int) -> dict[str, int]:
    """What was embedded."""
    return {"prompt_tokens": tokens, "total_tokens": tokens, "num_images": images}


def model_object(models: Models, manifest: Manifest) -> dict[str, Any]:
    """A served model, of these."""
    return {
        "id": manifest.id,
        "object": "model",
        "created": manifest.created,
        "owned_by": "openclip-triton",
        "aliases": models.aliases(manifest.id),
        "default": models.is_default(manifest.id),
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "open_clip_name": manifest.open_clip_name,
        "pretrained": manifest.pretrained,
        "precision": manifest.precision,
        "runtime": manifest.runtime,
        "gate": _gate_object(manifest.gate),
        "embedding_size": manifest.embedding_size,
        "context_length": manifest.tokenizer.context_length,
        "token_lengths": list(manifest.token_lengths),
        "image_size": manifest.preprocessing.image_size,
        "scoring": manifest.scoring,
    }


def answer(content: object, manifest: Manifest, record: Record) -> Response:
    """A response, with the headers that every answer of a model has."""
    return plain(content, headers(manifest, record))


def headers(manifest: Manifest, record: Record) -> dict[str, str]:
    """The space that the vectors live in, and milliseconds by stage."""
    return {"x-model-fingerprint": manifest.fingerprint, "server-timing": record.server_timing}


def plain(content: object, headers: dict[str, str] | None = None) -> Response:
    """A response that no model gave."""
    encoded = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(encoded, headers=headers, media_type="application/json")


def _encoded(vectors: Vectors, encoding: str) -> Iterable[NDArray[Any] | str]:
    if encoding == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    if encoding in {"binary", "ubinary"}:
        packed = np.packbits(vectors > 0, axis=-1)
        return packed if encoding == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    return vectors


def _failed(index: int, error: GatewayError) -> dict[str, Any]:
    return {"object": "error", "index": index, "error": error_object(error)}


def _gate_object(gate: Gate) -> dict[str, Any]:
    accuracy = gate.zero_shot
    return {
        "passed": gate.passed,
        "failures": list(gate.failures),
        "image_min_cosine": gate.image.min_cosine,
        "text_min_cosine": gate.text.min_cosine,
        "zero_shot_accuracy": accuracy and accuracy.accuracy,
        "pytorch_zero_shot_accuracy": accuracy and accuracy.pytorch_accuracy,
    }
