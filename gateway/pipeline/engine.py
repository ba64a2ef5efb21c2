"""The engine: what each kind of request asks for, from its items to its vectors or scores.

limits and quota -> vectors (`gateway.pipeline.embedding`) -> cosines and scores.
"""

from collections.abc import Sequence

import numpy as np

from gateway.admission.limits import RequestLimits
from gateway.errors import MalformedRequest
from gateway.models.manifest import Manifest
from gateway.models.registry import Model, Models
from gateway.models.values import (
    Classified,
    Compared,
    Deadline,
    Embedded,
    ImageItem,
    Item,
    Ranked,
    Timings,
)
from gateway.pipeline import requests
from gateway.pipeline.classifiers import Classifier, Classifiers
from gateway.pipeline.concurrency import both, nearby
from gateway.pipeline.embedding import Embedder
from gateway.pipeline.label_sets import LabelSets
from gateway.pipeline.scoring import Label, answer_bytes, classify, cosines, cut, logits


class Engine:
    """Turns items into vectors, and images and texts into scores."""

    def __init__(
        self,
        models: Models,
        sets: LabelSets,
        limits: RequestLimits,
        embedder: Embedder,
        classifiers: Classifiers,
    ) -> None:
        self.models = models
        self.sets = sets
        self._limits = limits
        self._embedder = embedder
        self._classifiers = classifiers

    def chosen(self, ask: requests.Embed) -> Model:
        """The model that an ask names, once its options are known to be right for it.

        Raises:
            UnknownModel: It is not served.
            MalformedRequest: None is named, and there is no default; or the dimensions are wrong.
        """
        model = self.models.find(ask.model)
        _dimensions(ask.dimensions, model.manifest)
        return model

    async def embed(
        self, ask: requests.Embed, deadline: Deadline, timings: Timings, model: Model | None = None
    ) -> Embedded:
        """Embeds texts and images, with `model` where one asks many times and wants the same.

        Raises:
            RequestError: The request, or an item where `skip` is false, is wrong; `param` says
                which.
            DeadlineExceeded, Unavailable, InferenceFailed: See `InferClient.infer`.
        """
        model = model or self._found(ask.model, timings)
        timings.model = model.manifest.id
        dimensions = _dimensions(ask.dimensions, model.manifest)
        self._limits.items(len(ask.items), "input")
        timings.spend(len(ask.items), _images(ask.items))
        embedded = await self._embedder.embed(
            model,
            ask.items,
            deadline,
            timings,
            truncate=ask.truncate,
            skip=ask.skip,
            bulk=ask.bulk,
        )
        with timings.stage("encode"):
            return embedded.cut(cut(embedded.vectors, dimensions))

    async def classify(
        self, ask: requests.Classify, deadline: Deadline, timings: Timings
    ) -> Classified:
        """Classifies images; with known labels, at the cost of embedding them.

        Raises: As `embed`.
        """
        model = self._found(ask.model, timings)
        self._limits.items(len(ask.images), "images")
        if ask.top_k is not None and ask.top_k < 1:
            raise MalformedRequest("top_k: must be at least 1", param="top_k")
        timings.spend(len(ask.images) + self._prompts(ask), len(ask.images))
        classifying = self._classifier(model, ask, deadline, timings)
        embedding = self._embedder.embed(model, ask.images, deadline, timings)
        classifier, embedded = await both(classifying, embedding)
        top_k = ask.top_k or len(classifier.labels)
        size = answer_bytes(len(ask.images), classifier.labels, top_k)
        self._limits.answer(size)
        timings.hold(size)
        with timings.stage("encode"):
            predictions = await nearby(
                classify,
                embedded.vectors,
                classifier.rows,
                classifier.labels,
                model.manifest,
                top_k,
                values=len(ask.images) * len(classifier.labels),
            )
        return Classified(
            model.manifest, predictions, classifier.truncated, classifier.tokens, embedded.images
        )

    async def similarity(
        self, ask: requests.Similarity, deadline: Deadline, timings: Timings
    ) -> Compared:
        """Compares every image with every text.

        Raises: As `embed`.
        """
        model = self._found(ask.model, timings)
        for count, param in ((len(ask.images), "images"), (len(ask.texts), "texts")):
            self._limits.items(count, param)
        items: list[Item] = [*ask.images, *ask.texts]
        self._limits.items(len(items), "images", "texts and images")
        timings.spend(len(items), len(ask.images))
        embedded = await self._embedder.embed(model, items, deadline, timings)
        with timings.stage("encode"):
            images, texts = np.split(embedded.vectors, [len(ask.images)])
            cosine = cosines(images, texts)
        return Compared(
            model.manifest,
            cosine,
            logits(cosine, model.manifest),
            embedded.truncated[len(ask.images) :],
            embedded.tokens,
            embedded.images,
        )

    async def rerank(self, ask: requests.Rerank, deadline: Deadline, timings: Timings) -> Ranked:
        """Orders documents by their cosine with the query, best first.

        Raises: As `embed`.
        """
        model = self._found(ask.model, timings)
        self._limits.items(len(ask.documents), "documents")
        if ask.top_n is not None and ask.top_n < 1:
            raise MalformedRequest("top_n: must be at least 1", param="top_n")
        items = [ask.query, *ask.documents]
        timings.spend(len(items), _images(items))
        embedded = await self._embedder.embed(model, items, deadline, timings)
        with timings.stage("encode"):
            [cosine] = cosines(embedded.vectors[:1], embedded.vectors[1:])
            order = (-cosine).argsort(kind="stable")[: ask.top_n]
        return Ranked(
            model.manifest,
            tuple((int(index), float(cosine[index])) for index in order),
            any(embedded.truncated),
            embedded.tokens,
            embedded.images,
        )

    def _found(self, name: str | None, timings: Timings) -> Model:
        model = self.models.find(name)
        timings.model = model.manifest.id
        return model

    def _prompts(self, ask: requests.Classify) -> int:
        """How many texts may have to be encoded; those of a label set are encoded already."""
        if not ask.labels:
            return 0
        templates = self.sets.templates(ask.templates, self._limits)
        self._limits.labels(len(ask.labels), len(templates))
        return len(ask.labels) * len(templates)

    async def _classifier(
        self, model: Model, ask: requests.Classify, deadline: Deadline, timings: Timings
    ) -> Classifier:
        if (ask.labels is None) == (ask.label_set is None):
            raise MalformedRequest("labels: give either `labels` or `label_set`", param="labels")
        if ask.label_set is not None:
            if ask.templates is not None:
                raise MalformedRequest(
                    "templates: a label set has its own; leave them out", param="templates"
                )
            return await self._classifiers.of_set(
                model, self.sets.find(ask.label_set), deadline, timings
            )
        labels, templates = ask.labels or (), self.sets.templates(ask.templates, self._limits)
        self._limits.labels(len(labels), len(templates))
        for name, texts in (("labels", labels), ("templates", templates)):
            for index, text in enumerate(texts):
                self._limits.text(text, f"{name}[{index}]")
        wanted = [Label(label, (label,)) for label in labels]
        return await self._classifiers.of_labels(model, wanted, templates, deadline, timings)


def _images(items: Sequence[Item]) -> int:
    return sum(isinstance(item, ImageItem) for item in items)


def _dimensions(asked: int | None, manifest: Manifest) -> int:
    size = manifest.embedding_size
    if asked is None:
        return size
    if not 1 <= asked <= size:
        raise MalformedRequest(
            f"dimensions: {asked} is not between 1 and the {size} of model {manifest.id!r}",
            param="dimensions",
        )
    return asked
