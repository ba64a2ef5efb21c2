"""Compares how pictures rank texts and classes with PyTorch's rankings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.gate import metrics
from export.gate.evaluation import TEMPLATES, EvaluationSet
from export.gate.metrics import Scores, Vectors
from export.gate.reference import References
from gateway.models.gate import Agreement, Ranking, Retrieval, ZeroShot


def rank(
    length: int,
    batch: int,
    rows: NDArray[np.intp],
    image: Vectors,
    text: Vectors,
    texts_run: int,
    truth: References,
    dataset: EvaluationSet,
) -> Ranking:
    """Compare the rankings of a variant's vectors with those of PyTorch's.

    Args:
        length: Token length, only recorded, like `batch` and `texts_run`.
        batch: Batch size.
        rows: Rows of the pictures to rank, [n].
        image: Vectors of all pictures, [pictures, D].
        text: Vectors of all texts, [texts, D].
        texts_run: Number of texts that ran at this batch size.
        truth: PyTorch's vectors.
        dataset: The set.
    """
    texts = len(dataset.texts)
    over_texts = metrics.scores(image[rows], text[:texts])
    true_texts = metrics.scores(truth.image[rows], truth.text[:texts])
    candidates, true_candidates = over_texts, true_texts
    if dataset.classes:
        found, true = (
            metrics.ensemble(vectors[texts : texts + len(dataset.prompts)], len(TEMPLATES))
            for vectors in (text, truth.text)
        )
        candidates = metrics.scores(image[rows], found)
        true_candidates = metrics.scores(truth.image[rows], true)
    agreements = (metrics.agreement(candidates, true_candidates, count) for count in (1, 5))
    return Ranking(
        length, batch, len(rows), texts_run,
        Agreement(true_candidates.shape[1], *agreements),
        _zero_shot(candidates, true_candidates, _of(dataset.labels, rows)),
        _retrieval(over_texts, true_texts, _of(dataset.pairs, rows)),
    )  # fmt: skip


def _of(
    given: Sequence[int | None] | None, rows: NDArray[np.intp]
) -> tuple[int | None, ...] | None:
    """Select the entries of some rows; None if all are None."""
    chosen = tuple(given[row] for row in rows) if given else ()
    return chosen if any(each is not None for each in chosen) else None


def _zero_shot(
    found: Scores, true: Scores, labels: tuple[int | None, ...] | None
) -> ZeroShot | None:
    if labels is None:
        return None
    return ZeroShot(
        pictures=sum(label is not None for label in labels),
        accuracy=metrics.accuracy(found, labels),
        pytorch_accuracy=metrics.accuracy(true, labels),
    )


def _retrieval(
    found: Scores, true: Scores, pairs: tuple[int | None, ...] | None
) -> Retrieval | None:
    if pairs is None:
        return None
    return Retrieval(
        pictures=sum(pair is not None for pair in pairs),
        recall=metrics.recall(found, pairs),
        pytorch_recall=metrics.recall(true, pairs),
    )
