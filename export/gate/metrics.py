"""Compares embeddings: cosines, agreement of rankings, zero-shot accuracy, retrieval recall.

Scores are cosines, float64 [pictures, candidates]; equal scores rank in the order of the
candidates, so that identical vectors score no better than chance.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.models.gate import Recall

_QUERIES = 1024  # whose scores are held at a time
NORM_TOLERANCE = 1e-3  # allowed distance of a vector's length from 1

Vectors = NDArray[np.float32]  # [n, D]
Cosines = NDArray[np.float64]  # [n]
Scores = NDArray[np.float64]  # [pictures, candidates]


def row_cosines(found: Vectors, truth: Vectors) -> Cosines:
    """Cosine of each row with its counterpart, float64 [n]; rows may have any length.

    A row that is zero, infinite or not a number has the cosine 0.
    """
    one, other = _finite(found), _finite(truth)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    products = np.einsum("nd,nd->n", one, other)
    return np.asarray(np.clip(products / np.where(lengths > 0, lengths, 1), -1, 1))


def bad_vectors(found: Vectors) -> int:
    """Number of rows that are not finite, or not of length 1 within `NORM_TOLERANCE`."""
    finite = np.isfinite(found).all(axis=-1)
    norms = np.linalg.norm(_finite(found), axis=-1)
    return int((~finite | (np.abs(norms - 1) > NORM_TOLERANCE)).sum())


def scores(images: Vectors, candidates: Vectors) -> Scores:
    """Dot products of [n, D] and [m, D]; rows that are not finite score 0."""
    return _finite(images) @ _finite(candidates).T


def ensemble(prompts: Vectors, templates: int) -> Vectors:
    """Average prompt vectors [classes * templates, D] to a classifier [classes, D].

    It is the renormalised mean over the templates, as OpenCLIP builds its classifier
    (`open_clip.zero_shot_classifier.build_zero_shot_classifier`).
    """
    means = _finite(prompts).reshape(-1, templates, prompts.shape[-1]).mean(axis=1)
    lengths = np.linalg.norm(means, axis=-1, keepdims=True)
    return np.asarray(means / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def best(given: Scores, count: int) -> NDArray[np.int64]:
    """Indices of the (at most) `count` best candidates of each row, best first."""
    return np.asarray((-given).argsort(axis=1, kind="stable")[:, :count])


def nearest(queries: Vectors, candidates: Vectors, count: int) -> NDArray[np.int64]:
    """As `best` of the scores of [n, D] and [m, D], without holding all of them at a time."""
    parts = range(0, len(queries), _QUERIES)
    return np.concatenate(
        [best(scores(queries[at : at + _QUERIES], candidates), count) for at in parts]
    )


def agreement(found: Scores, truth: Scores, count: int) -> float:
    """Mean share of the true `count` best candidates that are among the found ones."""
    pairs = zip(best(found, count), best(truth, count), strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in pairs]))


def accuracy(given: Scores, labels: Sequence[int | None]) -> float:
    """Share of the labelled rows whose best candidate is their label."""
    rows = [row for row, label in enumerate(labels) if label is not None]
    expected = np.array([label for label in labels if label is not None])
    return float((best(given[rows], 1)[:, 0] == expected).mean())


def recall(given: Scores, pairs: Sequence[int | None]) -> Recall:
    """Retrieval recall in both directions.

    Args:
        given: Scores of every picture with every text.
        pairs: Index of each picture's text, or None.

    Returns:
        From image to text, the share of paired pictures whose text is among the first. From text
        to image, the share of paired texts with a picture among the first.
    """
    own = [(picture, text) for picture, text in enumerate(pairs) if text is not None]
    image_to_text = [_hits(given, own, count) for count in (1, 5)]
    turned = [(text, picture) for picture, text in own]
    text_to_image = [_hits(given.T, turned, count) for count in (1, 5)]
    return Recall(*image_to_text, *text_to_image)


def _hits(given: Scores, own: Sequence[tuple[int, int]], count: int) -> float:
    found = best(given, count)
    hits: dict[int, bool] = {}
    for query, partner in own:
        hits[query] = hits.get(query, False) or bool((found[query] == partner).any())
    return sum(hits.values()) / len(hits)


def spread(count: int, most: int) -> NDArray[np.intp]:
    """Indices of `most` of `count` items, evenly spaced; of all items if there are fewer."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.intp)


def _finite(vectors: Vectors) -> NDArray[np.float64]:
    """Convert to float64, with zeros for each row that is not finite."""
    kept = np.isfinite(vectors).all(axis=-1, keepdims=True)
    return np.where(kept, vectors, 0).astype(np.float64)
