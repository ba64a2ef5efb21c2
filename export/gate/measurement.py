"""Measures a variant against OpenCLIP in PyTorch FP32, at each batch size and token length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import GateError
from export.gate import metrics
from export.gate.benchmark import benchmark
from export.gate.evaluation import TEMPLATES, EvaluationSet
from export.gate.metrics import Cosines, Vectors
from export.gate.reference import Inputs, References
from export.gate.runners import RunEncoder
from gateway.models.gate import (
    Agreement,
    EncoderFigures,
    Measured,
    Ranking,
    Retrieval,
    Run,
    ZeroShot,
)
from gateway.models.tokenizer import padded

SMALL_BATCH_ITEMS = 1000  # pictures, and texts of each length, to run at batch 1 and 2


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of a variant, and its cosines at the largest batch."""

    measured: Measured
    image_cosines: Cosines  # [pictures]
    text_cosines: Cosines  # [texts], each at the shortest length that fits


@dataclass(frozen=True, slots=True)
class _Ran:
    """An encoder at one batch size."""

    rows: NDArray[np.intp]  # items that ran at this batch size, [n]
    vectors: Vectors  # of all items, [items, D]; the others come from the largest batch
    figures: Run


@dataclass(frozen=True, slots=True)
class _Length:
    """The text encoder at one token length, by batch size."""

    length: int
    rows: NDArray[np.intp]  # texts that fit, [n]
    ran: dict[int, _Ran]  # on those texts


def evaluate(
    run_image: RunEncoder,
    run_texts: Mapping[int, RunEncoder],
    inputs: Inputs,
    truth: References,
    dataset: EvaluationSet,
    max_batch: int,
    small_batch_items: int = SMALL_BATCH_ITEMS,
) -> Evaluation:
    """Run every encoder on a set and compare the vectors with PyTorch's.

    All items run at the largest batch. At batch 1 and 2 run at most `small_batch_items`, spread
    over the set. A text runs at every token length that fits.

    Args:
        run_image: uint8 [n, S, S, 3] -> float32 [n, D].
        run_texts: For each token length, int32 [n, length] -> float32 [n, D].
        inputs: Result of `prepare(dataset, ...)`.
        truth: Result of `references(..., dataset)`.
        dataset: The set; one of its texts must fit each token length. Its data sets are measured
            as they are served: at the largest batch, each text at the shortest length that fits.
        max_batch: Largest served batch.
        small_batch_items: Maximum of pictures, and of texts of each length, at batch 1 and 2.

    Raises:
        GateError: An encoder fails to run.
        ValueError: No text fits the shortest token length.
    """
    images = _run_encoder(run_image, inputs.pixels, truth.image, max_batch, small_batch_items, None)
    texts = []
    for length in sorted(run_texts):
        rows = np.array([i for i, ids in enumerate(inputs.token_ids) if len(ids) <= length])
        if not rows.size:
            raise ValueError(f"no text of the evaluation set fits {length} tokens")
        items = np.stack([padded(inputs.token_ids[row], length, inputs.pad_id) for row in rows])
        ran = _run_encoder(
            run_texts[length], items, truth.text[rows], max_batch, small_batch_items, length
        )
        texts.append(_Length(length, rows, ran))
    served = References(images[max_batch].vectors, _served(texts, max_batch, truth.text)[0])
    measured = Measured.of(
        EncoderFigures.of([ran.figures for ran in images.values()]),
        EncoderFigures.of([ran.figures for each in texts for ran in each.ran.values()]),
        _rankings(images, texts, truth, dataset),
        benchmark(served, truth, dataset),
    )
    return Evaluation(
        measured,
        metrics.row_cosines(served.image, truth.image),
        metrics.row_cosines(served.text, truth.text),
    )


def _run_encoder(
    run: RunEncoder,
    items: NDArray[Any],
    truth: Vectors,
    max_batch: int,
    small_batch_items: int,
    length: int | None,
) -> dict[int, _Ran]:
    """Run all items; return vectors and figures by batch size, the smallest first."""
    ran: dict[int, _Ran] = {}
    vectors = np.empty_like(truth)
    for batch in sorted({1, min(2, max_batch), max_batch}, reverse=True):
        once = metrics.spread(len(items), len(items) if batch == max_batch else small_batch_items)
        count = len(once)
        rows = np.resize(once, -(-count // batch) * batch)  # fill the last batch from the start
        found = np.concatenate([run(items[part]) for part in rows.reshape(-1, batch)])
        if found.shape != (len(rows), truth.shape[1]):
            raise GateError(
                f"refused: an encoder gives {found.shape} for {len(rows)} items, where PyTorch has "
                f"vectors of {truth.shape[1]}"
            )
        cosines = metrics.row_cosines(found, truth[rows])
        vectors = vectors.copy()
        vectors[once] = found[:count]
        figures = Run(
            length, batch, count, float(cosines.min()), float(cosines.mean()),
            float(np.percentile(cosines, 1)), metrics.bad_vectors(found),
        )  # fmt: skip
        ran[batch] = _Ran(once, vectors, figures)
    return dict(sorted(ran.items()))


def _rankings(
    images: Mapping[int, _Ran], texts: Sequence[_Length], truth: References, dataset: EvaluationSet
) -> list[Ranking]:
    """Rank with both encoders at each batch size, and with text at each length."""
    rankings = []
    for batch, image in images.items():
        rows = image.rows[image.rows < len(dataset.pictures)]  # data sets have figures of their own
        true = References(truth.image[rows], truth.text)
        for start, shortest in enumerate(texts):
            text, count = _served(texts[start:], batch, truth.text)
            compared = _compared(References(image.vectors[rows], text), true, rows, dataset)
            rankings.append(Ranking(shortest.length, batch, len(rows), count, *compared))
    return rankings


def _served(texts: Sequence[_Length], batch: int, truth: Vectors) -> tuple[Vectors, int]:
    """Vectors of the texts at the shortest length that fits, and the number run at this batch."""
    found, ran = np.empty_like(truth), np.zeros(len(truth), bool)
    for each in reversed(texts):
        here = each.ran[batch]
        found[each.rows], ran[each.rows] = here.vectors, False
        ran[each.rows[here.rows]] = True
    return found, int(ran.sum())


def _compared(
    found: References, true: References, rows: NDArray[np.intp], dataset: EvaluationSet
) -> tuple[Agreement, ZeroShot | None, Retrieval | None]:
    """Compare how pictures rank classes and texts with PyTorch's rankings.

    Both have the vectors of these rows of the pictures, and of all texts.
    """
    texts, prompts = len(dataset.texts), len(dataset.prompts)
    over_texts, true_texts = (
        metrics.scores(each.image, each.text[:texts]) for each in (found, true)
    )
    candidates, true_candidates = over_texts, true_texts
    if dataset.classes:
        candidates, true_candidates = (
            metrics.scores(
                each.image, metrics.ensemble(each.text[texts : texts + prompts], len(TEMPLATES))
            )
            for each in (found, true)
        )
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
    return Agreement(true_candidates.shape[1], *agreements), zero_shot, retrieval


def _of(given: Sequence[int | None] | None, rows: NDArray[np.intp]) -> tuple[int | None, ...]:
    """The entries of some rows; empty if all are None."""
    chosen = tuple(given[row] for row in rows) if given else ()
    return chosen if any(each is not None for each in chosen) else ()
