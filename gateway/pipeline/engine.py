"""The engine: what each kind of request needs, from its items to its vectors or scores.

request -> checks -> `Plan`; plan -> vectors (`gateway.pipeline.embedding`) -> cosines and scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gateway.admission.limits import RequestLimits
from gateway.errors import MalformedRequest, RequestError
from gateway.models.manifest import Manifest
from gateway.models.registry import Model, Models
from gateway.models.values import (
    Classified,
    Compared,
    Cost,
    Deadline,
    Embedded,
    Execution,
    ImageItem,
    Item,
    Ranked,
    Timings,
    Tokens,
)
from gateway.pipeline import requests
from gateway.pipeline.classifiers import Classifiers
from gateway.pipeline.concurrency import gather_two, in_thread_if_large
from gateway.pipeline.embedding import PART_IMAGES, Embedder
from gateway.pipeline.label_sets import LabelSet, LabelSets
from gateway.pipeline.requests import Plan
from gateway.pipeline.scoring import (
    PLACEHOLDER,
    Label,
    answer_bytes,
    classify,
    cosines,
    cut,
    logits,
)

# Until an answer is sent, as numbers and as JSON. Measured.
VALUE_BYTES = 32  # of a vector's entry
SCORE_BYTES = 42  # of one cosine or logit
TOKEN_BYTES = 100  # of one token: its id and its text, as JSON
MATRICES = 3  # cosines, logits for each image, and for each text


@dataclass(slots=True)
class Engine:
    """Turns items into vectors, and images and texts into scores.

    Each method checks a request and returns a plan for it, and works only when the plan is run.
    """

    models: Models
    sets: LabelSets
    limits: RequestLimits
    embedder: Embedder
    classifiers: Classifiers

    def chosen(self, request: requests.Embed, timings: Timings) -> Model:
        """The model that a request names, after the check of the request's options.

        Raises:
            UnknownModel: It is not served.
            MalformedRequest: None is named, and there is no default; or the dimensions are wrong.
        """
        model = self._found(request.model, timings)
        _dimensions(request, model.manifest)
        return model

    def embed(
        self, request: requests.Embed, timings: Timings, model: Model | None = None
    ) -> Plan[Embedded]:
        """Embed texts and images.

        Args:
            request: Is checked here, as far as it can be before any work on it.
            timings: Takes the model's id, and what the stages of the work report.
            model: The request's model, for a caller that embeds many batches with one.

        Raises:
            RequestError: The request, or an item where `skip` is false, is wrong; `param` says
                which. Running the plan may raise it as well.
            Unavailable: There are images, and no Triton answers.
            DeadlineExceeded, Overloaded, Unavailable, InferenceFailed: Only running the plan
                raises these; see `InferClient.infer`.
        """
        chosen = model or self._found(request.model, timings)
        dimensions = _dimensions(request, chosen.manifest)
        self.limits.items(len(request.items), request.param)
        items = self.embedder.checked(request.items, skip=request.skip)

        async def run(deadline: Deadline) -> Embedded:
            embedded = await self.embedder.embed(
                chosen,
                items,
                Execution(deadline, timings),
                truncate=request.truncate,
                skip=request.skip,
                bulk=request.bulk,
            )
            with timings.stage("encode"):
                if dimensions < chosen.manifest.embedding_size:
                    embedded = replace(embedded, vectors=cut(embedded.vectors, dimensions))
                return embedded

        answer = len(items) * dimensions * request.copies * VALUE_BYTES
        return Plan(_cost(chosen, items, answer=answer), run)

    def classify(self, request: requests.Classify, timings: Timings) -> Plan[Classified]:
        """Classifies images; with known labels, at the cost of embedding them.

        Args and Raises: As `embed`.
        """
        model = self._found(request.model, timings)
        self.limits.items(len(request.images), "images")
        _at_least_one(request.top_k, "top_k")
        label_set = self._label_set(request)
        images = self.embedder.checked(request.images)
        names = [label.name for label in label_set.labels]
        top_k = request.top_k or len(names)
        size = answer_bytes(len(images), names, top_k)
        self.limits.answer(size, "top_k", "bytes of predictions")
        # The texts of a named set are encoded already.
        prompts = 0 if label_set.name else len(names) * len(label_set.templates)

        async def run(deadline: Deadline) -> Classified:
            classifier, embedded = await gather_two(
                self.classifiers.of_set(model, label_set, Execution(deadline, timings)),
                self.embedder.embed(model, images, Execution(deadline, timings)),
            )
            with timings.stage("encode"):
                predictions = await in_thread_if_large(
                    classify,
                    embedded.vectors,
                    classifier.rows,
                    classifier.labels,
                    model.manifest,
                    top_k,
                    values=len(images) * len(names),
                )
            return Classified(
                model.manifest,
                predictions,
                classifier.truncated,
                classifier.tokens,
                embedded.images,
            )

        return Plan(_cost(model, images, prompts=prompts, answer=size), run)

    def similarity(self, request: requests.Similarity, timings: Timings) -> Plan[Compared]:
        """Compare every image with every text.

        Args and Raises: As `embed`.
        """
        model = self._found(request.model, timings)
        images, texts = request.images, request.texts
        self.limits.items(len(images), "images")
        self.limits.items(len(texts), "texts")
        self.limits.items(len(images) + len(texts), "images", "texts and images")
        items = self.embedder.checked([*images, *texts])
        pairs = len(images) * len(texts)
        size = MATRICES * pairs * SCORE_BYTES
        self.limits.answer(size, "images", "bytes of scores")

        async def run(deadline: Deadline) -> Compared:
            embedded = await self.embedder.embed(model, items, Execution(deadline, timings))
            with timings.stage("encode"):
                of_images, of_texts = np.split(embedded.vectors, [len(images)])
                cosine = await in_thread_if_large(cosines, of_images, of_texts, values=pairs)
            return Compared(
                model.manifest,
                cosine,
                logits(cosine, model.manifest),
                embedded.truncated[len(images) :],
                embedded.tokens,
                embedded.images,
            )

        return Plan(_cost(model, items, answer=size), run)

    def rerank(self, request: requests.Rerank, timings: Timings) -> Plan[Ranked]:
        """Order documents by their cosine with the query, best first.

        Args and Raises: As `embed`.
        """
        model = self._found(request.model, timings)
        self.limits.items(len(request.documents), request.param)
        _at_least_one(request.top_n, "top_n")
        items = self.embedder.checked([request.query, *request.documents])

        async def run(deadline: Deadline) -> Ranked:
            embedded = await self.embedder.embed(
                model, items, Execution(deadline, timings), truncate=request.truncate
            )
            with timings.stage("encode"):
                [cosine] = cosines(embedded.vectors[:1], embedded.vectors[1:])
                order = (-cosine).argsort(kind="stable")[: request.top_n]
            return Ranked(
                model.manifest,
                tuple((int(index), float(cosine[index])) for index in order),
                any(embedded.truncated),
                embedded.tokens,
                embedded.images,
            )

        return Plan(_cost(model, items), run)

    def tokenize(
        self, request: requests.Tokenize, timings: Timings
    ) -> Plan[tuple[Model, list[Tokens]]]:
        """Tokenize texts; those over the context length are cut.

        Args and Raises: As `embed`.
        """
        model = self._found(request.model, timings)
        self.limits.items(len(request.texts), "inputs")
        items = self.embedder.checked(request.texts)

        async def run(deadline: Deadline) -> tuple[Model, list[Tokens]]:
            return model, await self.embedder.tokenize(model, items, Execution(deadline, timings))

        length = model.manifest.tokenizer.context_length
        return Plan(_cost(model, items, answer=len(items) * length * TOKEN_BYTES), run)

    def decode(self, request: requests.Decode, timings: Timings) -> Plan[tuple[Model, list[str]]]:
        """Turn token ids into texts; ids that stand for no token are left out.

        Args and Raises: As `embed`.
        """
        model = self._found(request.model, timings)
        self.limits.items(len(request.ids), "ids")

        async def run(_: Deadline) -> tuple[Model, list[str]]:
            return model, await in_thread_if_large(
                model.tokenizer.decode_all, request.ids, request.skip_special,
                values=sum(map(len, request.ids)),
            )  # fmt: skip

        return Plan(Cost(len(request.ids)), run)

    def _found(self, name: str | None, timings: Timings) -> Model:
        model = self.models.find(name)
        timings.model = model.manifest.id
        return model

    def _label_set(self, request: requests.Classify) -> LabelSet:
        """The set that a request names, or its own labels as a set without a name."""
        if (request.labels is None) == (request.label_set is None):
            raise MalformedRequest("labels: give either `labels` or `label_set`", param="labels")
        if request.label_set is not None:
            if request.templates is not None:
                raise MalformedRequest(
                    "templates: a label set has its own; leave them out", param="templates"
                )
            return self.sets.find(request.label_set)
        labels = request.labels or ()
        templates = self.sets.templates(request.templates, self.limits)
        self.limits.labels(len(labels), len(templates))
        longest = max(map(len, templates)) - len(PLACEHOLDER)
        for index, label in enumerate(labels):
            self.limits.text(label, f"labels[{index}]")
            self.limits.characters(longest + len(label), f"labels[{index}]")
        return LabelSet("", tuple(Label(label, (label,)) for label in labels), templates)


def _cost(
    model: Model, items: Sequence[Item | RequestError], *, prompts: int = 0, answer: int = 0
) -> Cost:
    """What these items take, with texts made of labels, and the bytes of the answer."""
    images = sum(isinstance(item, ImageItem) for item in items)
    pixels = min(images, PART_IMAGES) * 3 * model.manifest.preprocessing.image_size**2
    return Cost(len(items) + prompts, images, pixels + answer)


def _at_least_one(count: int | None, param: str) -> None:
    if count is not None and count < 1:
        raise MalformedRequest(f"{param}: must be at least 1", param=param)


def _dimensions(request: requests.Embed, manifest: Manifest) -> int:
    size, wanted, param = manifest.embedding_size, request.dimensions, request.dimensions_param
    if wanted is None:
        return size
    if not 1 <= wanted <= size:
        raise MalformedRequest(
            f"{param}: {wanted} is not between 1 and the {size} of model {manifest.id!r}",
            param=param,
        )
    return wanted
