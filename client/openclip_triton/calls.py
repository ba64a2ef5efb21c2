"""The calls of both clients: requests, and conversion of answers to values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message

from openclip_api.v1 import clip_pb2 as pb
from openclip_triton import arguments, convert
from openclip_triton.errors import InvalidRequest, ServiceFailed
from openclip_triton.values import (
    C,
    Content,
    Image,
    Model,
    Prediction,
    Ranked,
    Result,
    Similarity,
    Space,
    Vector,
    Vectors,
)

ONE_CALL_ITEMS = 64
ONE_CALL_BYTES = 2 * 2**20

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A unary call of the service."""

    method: str  # of ClipService
    request: Message
    read: Callable[[Any], R]  # the method's response -> the caller's result


@dataclass(frozen=True, slots=True)
class Batch(Generic[C]):
    """Items to embed into one array: by one call if they are few, else by a stream."""

    contents: Sequence[C]
    name: str  # of the caller's argument, for errors
    check: arguments.Check
    options: pb.StreamOptions  # of all items

    def call(self) -> Call[Vectors] | None:
        """The call that embeds all items; None if they are too many. Reads files.

        Raises:
            TypeError: As for `arguments.each`.
            InvalidRequest: There are no items.
            UnreadableFile: A file cannot be read.
        """
        size = sum(map(convert.size_of, arguments.each(self.contents, self.name, self.check)))
        if len(self.contents) == 0:  # an array has no truth value
            raise InvalidRequest("input: give at least one", param="input")
        if len(self.contents) > ONE_CALL_ITEMS or size > ONE_CALL_BYTES:
            return None
        given = {field.name: value for field, value in self.options.ListFields()}
        items = arguments.messages(self.contents, "input", self.check)
        return Call("Embed", pb.EmbedRequest(input=items, **given), _vectors)


def vector_of(result: Result[int]) -> Vector:
    """The vector of an item of a batch.

    Raises:
        ClientError: The item failed; named as `input[i]`.
    """
    if result.vector is not None:
        return result.vector
    error = result.error or ServiceFailed("the service sent neither a vector nor an error")
    error.locate(f"input[{result.id}]")
    raise error


def space(model: str, dimensions: int | None) -> Call[Space]:
    """The call of `Client.space`."""
    request = pb.EmbedRequest(model=model, input=[pb.Item(text="a photo")], dimensions=dimensions)
    return Call(
        "Embed", request, lambda answer: Space(answer.model, answer.fingerprint, answer.dimensions)
    )


def classify(
    images: Sequence[Image],
    labels: Sequence[str],
    label_set: str,
    templates: Sequence[str],
    template_set: str,
    top_k: int | None,
    model: str,
) -> Call[list[list[Prediction]]]:
    """The call of `Client.classify`; reads files, and raises what it says."""
    request = pb.ClassifyRequest(
        model=model,
        images=arguments.messages(images, "images", arguments.check_image),
        labels=arguments.texts(labels, "labels"),
        label_set=label_set,
        templates=arguments.texts(templates, "templates"),
        template_set=template_set,
        top_k=top_k,
    )
    return Call("Classify", request, _predictions)


def similarity(texts: Sequence[str], images: Sequence[Image], model: str) -> Call[Similarity]:
    """The call of `Client.similarity`; reads files, and raises what it says."""
    request = pb.SimilarityRequest(
        model=model,
        texts=arguments.texts(texts, "texts"),
        images=arguments.messages(images, "images", arguments.check_image),
    )
    return Call("Similarity", request, _similarity)


def rerank(
    query: Content, documents: Sequence[Content], top_n: int | None, model: str
) -> Call[list[Ranked]]:
    """The call of `Client.rerank`; reads files, and raises what it says."""
    arguments.check_content(query, "query")
    request = pb.RerankRequest(
        model=model,
        query=arguments.message(query, "query"),
        documents=arguments.messages(documents, "documents", arguments.check_content),
        top_n=top_n,
    )
    return Call("Rerank", request, _ranking)


def models() -> Call[list[Model]]:
    """The call of `Client.models`."""
    return Call(
        "ListModels",
        pb.ListModelsRequest(),
        lambda answer: [convert.to_model(model) for model in answer.models],
    )


def _vectors(answer: pb.EmbedResponse) -> Vectors:
    return np.stack([convert.to_vector(row.embedding.vector) for row in answer.results])


def _predictions(answer: pb.ClassifyResponse) -> list[list[Prediction]]:
    return [
        [Prediction(each.label, each.index, each.score, each.cosine) for each in row.predictions]
        for row in answer.results
    ]


def _similarity(answer: pb.SimilarityResponse) -> Similarity:
    return Similarity(
        convert.to_matrix(answer.cosine),
        convert.to_matrix(answer.logits_per_image),
        convert.to_matrix(answer.logits_per_text),
    )


def _ranking(answer: pb.RerankResponse) -> list[Ranked]:
    return [Ranked(found.index, found.relevance_score) for found in answer.results]
