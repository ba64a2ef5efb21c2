"""Between messages and the pipeline: the items of a request, and results as an answer."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import (
    GatewayError,
    InferenceFailed,
    MalformedRequest,
    RequestError,
    Unauthenticated,
)
from gateway.models.manifest import Manifest
from gateway.models.registry import Models
from gateway.models.values import (
    Classified,
    Compared,
    Embedded,
    ImageItem,
    Item,
    Prediction,
    Ranked,
    TextItem,
)
from gateway.pipeline import requests
from openclip_api.v1 import clip_pb2


def item(message: clip_pb2.Item, param: str) -> Item:
    """A text or an image at this place. Raises MalformedRequest: it is neither, or empty."""
    kind = message.WhichOneof("content")
    if kind is None:
        raise MalformedRequest(f"{param}: give `text`, `image` or `image_url`", param=param)
    if kind == "text":
        return TextItem(message.text, param)
    data = message.image if kind == "image" else message.image_url
    if not data:
        raise MalformedRequest(f"{param}: the image is empty", param=param)
    return ImageItem(data, param)


def embed(message: clip_pb2.EmbedRequest) -> requests.Embed:
    """The request of an EmbedRequest; its error stands in the place of an entry that is no item."""
    return requests.Embed(
        message.model or None,
        [read(each, f"input[{index}]") for index, each in enumerate(message.input)],
        dimensions=message.dimensions or None,
        truncate=message.truncate if message.HasField("truncate") else True,
        skip=message.skip_errors,
    )


def read(message: clip_pb2.Item, param: str) -> Item | RequestError:
    """As `item`, but returns the error of an entry that is no item."""
    try:
        return item(message, param)
    except RequestError as error:
        return error


def classify(message: clip_pb2.ClassifyRequest) -> requests.Classify:
    """The request of a ClassifyRequest. Raises MalformedRequest: templates twice, or no image."""
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
    """The request of a SimilarityRequest."""
    texts = [TextItem(text, f"texts[{index}]") for index, text in enumerate(message.texts)]
    return requests.Similarity(message.model or None, texts, _images(message.images))


def rerank(message: clip_pb2.RerankRequest) -> requests.Rerank:
    """The request of a RerankRequest."""
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


_FINAL = (RequestError, Unauthenticated, InferenceFailed)  # the same again would end the same


def error(problem: GatewayError) -> clip_pb2.Error:
    """The error that stands in place of an item's vector."""
    return clip_pb2.Error(
        code=problem.code,
        message=problem.message,
        param=problem.param or "",
        retryable=not isinstance(problem, _FINAL),
    )


def outcomes(embedded: Embedded) -> list[dict[str, Any]]:
    """Per item the field that its result has: `embedding`, or `error`."""
    rows = embedded.vectors.astype("<f4", copy=False)
    return [
        {"error": error(embedded.failed[index])}
        if index in embedded.failed
        else {"embedding": clip_pb2.Embedding(vector=row.tobytes(), truncated=truncated)}
        for index, (row, truncated) in enumerate(zip(rows, embedded.truncated, strict=True))
    ]


def embed_response(embedded: Embedded) -> clip_pb2.EmbedResponse:
    """The answer to an EmbedRequest."""
    return clip_pb2.EmbedResponse(
        results=[clip_pb2.EmbedResult(**each) for each in outcomes(embedded)],
        model=embedded.manifest.id,
        fingerprint=embedded.manifest.fingerprint,
        dimensions=embedded.vectors.shape[1],
        usage=usage(embedded),
    )


def classify_response(classified: Classified) -> clip_pb2.ClassifyResponse:
    """The answer to a ClassifyRequest."""
    return clip_pb2.ClassifyResponse(
        results=[
            clip_pb2.ImagePredictions(predictions=map(_prediction, of_image))
            for of_image in classified.predictions
        ],
        model=classified.manifest.id,
        fingerprint=classified.manifest.fingerprint,
        truncated=classified.truncated,
        usage=usage(classified),
    )


def similarity_response(compared: Compared) -> clip_pb2.SimilarityResponse:
    """The answer to a SimilarityRequest."""
    return clip_pb2.SimilarityResponse(
        cosine=_rows(compared.cosine),
        logits_per_image=_rows(compared.logits),
        logits_per_text=_rows(compared.logits.T),
        truncated=compared.truncated,
        model=compared.manifest.id,
        fingerprint=compared.manifest.fingerprint,
        usage=usage(compared),
    )


def rerank_response(ranked: Ranked) -> clip_pb2.RerankResponse:
    """The answer to a RerankRequest."""
    return clip_pb2.RerankResponse(
        results=[
            clip_pb2.RankedDocument(index=index, relevance_score=cosine)
            for index, cosine in ranked.order
        ],
        model=ranked.manifest.id,
        fingerprint=ranked.manifest.fingerprint,
        truncated=ranked.truncated,
        usage=usage(ranked),
    )


def model(models: Models, manifest: Manifest) -> clip_pb2.Model:
    """A served model, of these."""
    return clip_pb2.Model(
        id=manifest.id,
        created=manifest.created,
        version=manifest.version,
        fingerprint=manifest.fingerprint,
        open_clip_name=manifest.open_clip_name,
        pretrained=manifest.pretrained,
        precision=manifest.precision,
        runtime=manifest.runtime,
        embedding_size=manifest.embedding_size,
        context_length=manifest.tokenizer.context_length,
        token_lengths=manifest.token_lengths,
        image_size=manifest.preprocessing.image_size,
        scoring=manifest.scoring,
        gate_passed=manifest.gate.passed,
        aliases=models.aliases(manifest.id),
        is_default=models.is_default(manifest.id),
        triton_models=manifest.triton.names,
        card=f"/v1/cards/{manifest.id}" if manifest.card else None,
    )


def usage(answered: Embedded | Classified | Compared | Ranked) -> clip_pb2.Usage:
    """What was embedded for an answer."""
    return clip_pb2.Usage(tokens=answered.tokens, images=answered.images)


def _prediction(entry: Prediction) -> clip_pb2.Prediction:
    return clip_pb2.Prediction(
        label=entry.label, index=entry.index, score=entry.score, cosine=entry.cosine
    )


def _rows(matrix: NDArray[np.float64]) -> list[clip_pb2.Row]:
    return [clip_pb2.Row(values=row) for row in matrix.tolist()]
