"""Compares how pictures rank texts and classes with PyTorch's rankings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.gate import metrics
from export.gate.evaluation import TEMPLATES, EvaluationSet
from export.gate.metrics import Vectors
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
    zero_shot = retrieval = None
    if labels := _of(dataset.labels, rows):
        zero_shot = ZeroShot(
            pictures=sum(label is not None for label in labels),
            accuracy=metrics.accuracy(candidates, labels),
            pytorch_accuracy=metrics.accuracy(true_candidates, labels),
        )
    if pairs := _of(dataset.pairs, rows):
        retrieval = Retrieval(
            pictures=sum(pair is not None for pair in pairs),
            recall=metrics.recall(over_texts, pairs),
            pytorch_recall=metrics.recall(true_texts, pairs),
        )
    agreement = Agreement(true_candidates.shape[1], *agreements)
    return Ranking(length, batch, len(rows), texts_run, agreement, zero_shot, retrieval)


def _of(given: Sequence[int | None] | None, rows: NDArray[np.intp]) -> tuple[int | None, ...]:
    """The entries of some rows; empty if all are None."""
    chosen = tuple(given[row] for row in rows) if given else ()
    return chosen if any(each is not None for each in chosen) else ()
