"""Arithmetic on embeddings: cut and renormalise, cosines, softmax, sigmoid."""

import numpy as np
from numpy.typing import NDArray

from gateway.models.values import Vectors

Scores = NDArray[np.float64]  # [images, labels]
Rows = Vectors | NDArray[np.float64]  # [n, D], unit length; float64 spares `cosines` a copy

_DIGITS = 9  # of a cosine


def normalise(vectors: Vectors) -> Vectors:
    """Scales each row of float32 [n, D] to unit length; a zero row stays zero."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` entries of each row, scaled to unit length again."""
    return vectors if dimensions == vectors.shape[-1] else normalise(vectors[:, :dimensions])


def cosines(images: Vectors, texts: Rows) -> Scores:
    """Cosine of each image with each text: unit [n, D] and [m, D] -> float64 [n, m].

    Equal texts get equal cosines.
    """
    wide = texts.astype(np.float64, copy=False)
    products = images.astype(np.float64) @ wide.T
    # The last bits depend on where in the matrix a row stands; float32 vectors mean 7 digits.
    return np.clip(np.round(products, _DIGITS, out=products), -1.0, 1.0, out=products)


def softmax(logits: Scores) -> Scores:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sigmoid(logits: Scores) -> Scores:
    """The logistic function, without overflow at either end."""
    return np.exp(-np.logaddexp(0.0, -logits))
