"""Results of the engine -> the content of responses; their shapes are those of `responses`."""

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from gateway.errors import GatewayError
from gateway.models.gate import Gate
from gateway.models.manifest import Manifest
from gateway.models.registry import Models
from gateway.models.values import Embedded, Item, Prediction, TextItem, Timings, Vectors
from gateway.rest.problems import error_object


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


def answer(content: object, manifest: Manifest, timings: Timings) -> Response:
    """A response, with the headers that every answer of a model has."""
    return plain(content, headers(manifest, timings))


def headers(manifest: Manifest, timings: Timings) -> dict[str, str]:
    """The space that the vectors live in, and milliseconds by stage."""
    stages = ", ".join(
        f"{name};dur={seconds * 1000:.2f}" for name, seconds in timings.stages.items()
    )
    return {"x-model-fingerprint": manifest.fingerprint, "server-timing": stages}


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
