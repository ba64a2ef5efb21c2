"""The requests that the benchmarks send: kinds of them, each an endless stream."""

import base64
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.traffic.captions import Captions
from benchmarks.traffic.photos import photos
from openclip_api.v1.clip_pb2 import EmbedRequest, EmbedResponse, Item

REST, GRPC = "rest", "grpc"
EMBED = "/openclip.v1.ClipService/Embed"
STREAM = "/openclip.v1.ClipService/EmbedStream"
JSON, JPEG = "application/json", "image/jpeg"
CAPTIONS_PER_REQUEST = 16
LABEL_SET = "benchmark"  # the label set that `python -m benchmarks.compare` serves with

Bodies = Callable[[str, int], Iterator["Request"]]  # of a model id and a seed


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent."""

    protocol: str  # REST or GRPC
    path: str  # of the URL, or the full name of the gRPC method
    body: bytes
    content_type: str = JSON
    items: int = 1  # texts or images in it


def requests(kind: str, model: str, seed: int = 0) -> Iterator[Request]:
    """Endless requests of one of the `KINDS`; with one seed, no caption repeats.

    An empty model id names none, for services with one model or a default.

    Raises:
        KeyError: There is no such kind.
    """
    return KINDS[kind](model, seed)


def captions(model: str, seed: int = 0, length: int | None = None) -> Iterator[Request]:
    """One caption per request; with `length`, each has that number of tokens."""
    for caption in Captions(seed, length):
        yield _json("/v1/embeddings", {"model": model, "input": caption})


def images(model: str, count: int, seed: int = 0) -> Iterator[Request]:
    """Photos as data URLs, `count` per request, in the form that infinity and we accept."""
    urls = [_data_url(photo) for photo in photos()]
    groups = [[urls[(first + n) % len(urls)] for n in range(count)] for first in range(len(urls))]
    bodies = [{"model": model, "modality": "image", "input": group} for group in groups]
    return _cycle([_json("/v1/embeddings", body, count) for body in bodies], seed)


def labels(count: int) -> list[str]:
    """A list of `count` different labels."""
    return Captions(seed=1_000).take(count)


def vectors(answer: bytes) -> int:
    """The number of embeddings in a serialized `EmbedResponse`; errors do not count."""
    results = EmbedResponse.FromString(answer).results
    return sum(result.HasField("embedding") for result in results)


def _rest_texts(model: str, seed: int) -> Iterator[Request]:
    drawn = Captions(seed)
    while True:
        several = drawn.take(CAPTIONS_PER_REQUEST)
        yield _json("/v1/embeddings", {"model": model, "input": several}, len(several))


def _rest_image(model: str, seed: int) -> Iterator[Request]:
    path = f"/v1/embeddings/image{f'?model={model}' if model else ''}"
    return _cycle([Request(REST, path, photo, JPEG) for photo in photos()], seed)


def _rest_image_base64(model: str, seed: int) -> Iterator[Request]:
    bodies = [{"model": model, "input": _data_url(photo)} for photo in photos()]
    return _cycle([_json("/v1/embeddings", body) for body in bodies], seed)


def _zero_shot(model: str, seed: int) -> Iterator[Request]:
    """One photo and ten labels, the same each time, as in an application."""
    return _classify(model, seed, {"labels": labels(10)})


def _label_set(model: str, seed: int) -> Iterator[Request]:
    return _classify(model, seed, {"label_set": LABEL_SET})


def _classify(model: str, seed: int, known: dict[str, Any]) -> Iterator[Request]:
    rest = {"model": model, "top_k": 5} | known
    bodies = [{"image": _data_url(photo)} | rest for photo in photos()]
    return _cycle([_json("/v1/zero-shot", body) for body in bodies], seed)


def _grpc_texts(model: str, seed: int, count: int = CAPTIONS_PER_REQUEST) -> Iterator[Request]:
    drawn = Captions(seed)
    while True:
        yield _embed(model, [Item(text=caption) for caption in drawn.take(count)])


def _grpc_image(model: str, seed: int) -> Iterator[Request]:
    return _cycle([_embed(model, [Item(image=photo)]) for photo in photos()], seed)


def _mixed(model: str, seed: int) -> Iterator[Request]:
    """Of ten requests six are captions, three photos and one a classification."""
    streams = {kind: KINDS[kind](model, seed) for kind in MIX}
    for kind in itertools.cycle(MIX):
        yield next(streams[kind])


def _json(path: str, body: dict[str, Any], items: int = 1) -> Request:
    named = {name: value for name, value in body.items() if (name, value) != ("model", "")}
    return Request(REST, path, json.dumps(named).encode(), items=items)


def _embed(model: str, items: Sequence[Item]) -> Request:
    body = EmbedRequest(model=model, input=items).SerializeToString()
    return Request(GRPC, EMBED, body, items=len(items))


def _data_url(photo: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(photo).decode()


def _cycle(made: Sequence[Request], seed: int) -> Iterator[Request]:
    """Cycles through the values; the start depends on the seed."""
    start = seed % len(made)
    return itertools.cycle([*made[start:], *made[:start]])


MIX = (
    "rest-text", "rest-image", "rest-text", "rest-text", "zero-shot",
    "rest-text", "rest-image", "rest-text", "rest-image", "rest-text",
)  # fmt: skip

KINDS: dict[str, Bodies] = {
    "rest-text": captions,
    "rest-texts": _rest_texts,
    "rest-image": _rest_image,
    "rest-image-base64": _rest_image_base64,
    "zero-shot": _zero_shot,
    "label-set": _label_set,
    "mixed": _mixed,
    "grpc-text": partial(_grpc_texts, count=1),
    "grpc-texts": _grpc_texts,
    "grpc-image": _grpc_image,
}

OFFERED = [kind for kind in KINDS if kind != "label-set"]  # kinds that need no `LABEL_SET`
