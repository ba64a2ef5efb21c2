"""Vectors -> scores, and vectors of fewer dimensions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.errors import MalformedRequest, quoted
from gateway.models.manifest import Manifest
from gateway.models.values import Prediction, Vectors

Scores = NDArray[np.float64]  # [images, labels]
Rows = Vectors | NDArray[np.float64]  # [n, D], unit length; float64 spares `cosines` a copy

_DIGITS = 9  # of a cosine


def normalise(vectors: Vectors) -> Vectors:
    """Scale each row of float32 [n, D] to unit length; a zero row stays zero."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` entries of each row, scaled to unit length again."""
    return normalise(vectors[:, :dimensions])


def cosines(rows: Vectors, columns: Rows) -> Scores:
    """Cosine of each row with each column: unit [n, D] and [m, D] -> float64 [n, m].

    Equal vectors get equal cosines.
    """
    wide = columns.astype(np.float64, copy=False)
    products = rows.astype(np.float64) @ wide.T
    # The last bits depend on where in the matrix a row stands; float32 vectors mean 7 digits.
    return np.clip(np.round(products, _DIGITS, out=products), -1.0, 1.0, out=products)


def softmax(logits: Scores) -> Scores:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sigmoid(logits: Scores) -> Scores:
    """The logistic function, without overflow at either end."""
    return np.exp(-np.logaddexp(0.0, -logits))


PLACEHOLDER = "{}"
PREDICTION_BYTES = 480  # as objects; measured
DEFAULT_TEMPLATES = (PLACEHOLDER,)  # labels as they are


@dataclass(frozen=True, slots=True)
class Label:
    """What an image may be classified as."""

    name: str  # what the answer says
    names: tuple[str, ...]  # what stands in the templates


def check_templates(templates: Sequence[str]) -> None:
    """Each template must hold `{}` exactly once. Raises MalformedRequest: one does not."""
    for index, template in enumerate(templates):
        if template.count(PLACEHOLDER) != 1:
            raise MalformedRequest(
                f"the template {quoted(template)} must hold {PLACEHOLDER} exactly once, "
                "where the label goes",
                param=f"templates[{index}]",
            )


def prompts(label: Label, templates: Sequence[str]) -> Iterator[str]:
    """Each name of a label in each template."""
    # Not str.format: a label or template with other braces is only text.
    return (template.replace(PLACEHOLDER, name) for name in label.names for template in templates)


def answer_bytes(images: int, labels: Sequence[str], top_k: int) -> int:
    """What the predictions take at most until they are sent, as objects and as JSON.

    Each image's repeat the names of their labels, which may be long.
    """
    names = sorted(map(_name_bytes, labels), reverse=True)[:top_k]
    return images * (len(names) * PREDICTION_BYTES + sum(names))


def _name_bytes(name: str) -> int:
    """In JSON, in a buffer that may be twice as large as it must; control characters take six."""
    if not name.isprintable():
        return 2 * 6 * len(name)
    return 2 * (len(name.encode()) + name.count('"') + name.count("\\"))


def logits(similarity: Scores, manifest: Manifest) -> Scores:
    """OpenCLIP's logits: `logit_scale * cosine`, and for SigLIP `logit_bias` added."""
    return manifest.logit_scale * similarity + (manifest.logit_bias or 0.0)


def classify(
    images: Vectors, classifier: Rows, labels: Sequence[str], manifest: Manifest, top_k: int
) -> tuple[tuple[Prediction, ...], ...]:
    """Score every image [n, D] against the unit vectors [m, D] of m labels, and keep the best.

    Returns:
        Per image `top_k` predictions, best first; equal scores stay in the order of the labels.
    """
    similarity = cosines(images, classifier)
    scaled = logits(similarity, manifest)
    scores = softmax(scaled) if manifest.scoring == "softmax" else sigmoid(scaled)
    orders = (-scores).argsort(axis=1, kind="stable")[:, :top_k]
    return tuple(
        tuple(
            Prediction(labels[label], int(label), float(scores[row, label]), float(cosine[label]))
            for label in order
        )
        for row, (order, cosine) in enumerate(zip(orders, similarity, strict=True))
    )
