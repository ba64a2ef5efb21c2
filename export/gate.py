"""Measures a variant against OpenCLIP in PyTorch FP32, and says where it falls short."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export import metrics
from export.errors import GateError, brief
from export.evaluation import EvaluationSet
from export.metrics import (
    Agreement,
    Cosines,
    Measured,
    Recall,
    Retrieval,
    Run,
    Scores,
    TowerFigures,
    Vectors,
    ZeroShot,
)
from export.reference import Inputs, References
from gateway.manifest import TOKEN_IDS
from gateway.text import padded

FEW = 64  # items to run at batch 1 and 2
_ROUNDING = 1e-9  # of float64 sums; not a shortfall

RunTower = Callable[[NDArray[Any]], Vectors]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures, and the cosines behind them at the largest batch."""

    measured: Measured
    image_cosines: Cosines  # [pictures]
    text_cosines: Cosines  # [texts], each at the shortest length that holds it


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a variant must reach; None asks nothing.

    Attributes:
        min_cosine: Of any item.
        mean_cosine: Of each tower.
        accuracy_loss: Most zero-shot accuracy that may be lost to PyTorch, in percentage points.
    """

    min_cosine: float | None = None
    mean_cosine: float | None = None
    accuracy_loss: float | None = None


DEFAULT_THRESHOLDS: Mapping[str, Thresholds] = {
    "fp32": Thresholds(min_cosine=0.99999),
    "fp16": Thresholds(min_cosine=0.9995),
    "int8": Thresholds(mean_cosine=0.99, accuracy_loss=1.0),
}


def failures(measured: Measured, thresholds: Thresholds) -> list[str]:
    """One line for each figure that falls short, saying by how much; none when all pass.

    Vectors that are not finite or not of length 1 are a failure whatever the thresholds are.
    """
    found = []
    for name, tower in (("image", measured.image), ("text", measured.text)):
        if tower.bad_vectors:
            found.append(
                f"the {name} tower gave {tower.bad_vectors} vectors that are not of length 1"
            )
        lines = (
            _short(f"the {name} tower's lowest cosine", tower.min_cosine, thresholds.min_cosine),
            _short(f"the {name} tower's mean cosine", tower.mean_cosine, thresholds.mean_cosine),
        )
        found += [line for line in lines if line]
    zero_shot, limit = measured.zero_shot, thresholds.accuracy_loss
    if zero_shot is not None and limit is not None:
        lost = 100 * (zero_shot.pytorch_accuracy - zero_shot.accuracy)
        if lost > limit + _ROUNDING:
            found.append(
                f"zero-shot accuracy is {100 * zero_shot.accuracy:.2f} %, {lost:.2f} points below "
                f"PyTorch's {100 * zero_shot.pytorch_accuracy:.2f} %, {lost - limit:.2f} more than "
                f"the {limit:g} allowed"
            )
    return found


def _short(what: str, found: float, needed: float | None) -> str | None:
    if needed is None or found >= needed:
        return None
    return f"{what} to PyTorch FP32 is {found:.7f}, {needed - found:.2g} short of {needed}"


def onnx_runner(
    path: Path, name: str, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> RunTower:
    """Runs a graph in ONNX Runtime.

    Args:
        path: Of the graph.
        name: Of its input.
        providers: ONNX Runtime's execution providers, the preferred one first.

    Raises:
        GateError: It does not load or, later, does not run at a shape.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise GateError(f"{path.name}: ONNX Runtime cannot load it: {brief(error)}") from error

    def run(batch: NDArray[Any]) -> Vectors:
        try:
            return np.asarray(session.run(None, {name: batch})[0])
        except Exception as error:  # as above
            raise GateError(
                f"refused: {path.name} does not run at shape {batch.shape}: {brief(error)}"
            ) from error

    return run


def onnx_text_runners(
    files: Mapping[int, Path], providers: Sequence[str] = ("CPUExecutionProvider",)
) -> dict[int, RunTower]:
    """Runs the text tower of each token length; hard links of one file share a session.

    Raises:
        GateError: As `onnx_runner`.
    """
    sessions: dict[int, RunTower] = {}
    runners = {}
    for length, path in files.items():
        inode = path.stat().st_ino
        if inode not in sessions:
            sessions[inode] = onnx_runner(path, TOKEN_IDS, providers)
        runners[length] = sessions[inode]
    return runners


def evaluate(
    run_image: RunTower,
    run_texts: Mapping[int, RunTower],
    inputs: Inputs,
    truth: References,
    what: EvaluationSet,
    max_batch: int,
    few: int = FEW,
) -> Evaluation:
    """Runs every tower on a set and compares what comes out with PyTorch.

    All items run at the largest batch, and up to `few` of them, spread over the set, at batch 1
    and 2; texts that a token length cannot hold are left to the longer ones.

    Args:
        run_image: uint8 [n, S, S, 3] -> float32 [n, D].
        run_texts: For each token length, int32 [n, length] -> float32 [n, D].
        inputs: Of `prepare(what, ...)`.
        truth: Of `references(..., what)`.
        what: The set; each token length must hold one of its texts.
        max_batch: Largest batch that is served.
        few: Items at batch 1 and 2.

    Raises:
        GateError: A tower does not run.
        ValueError: No text fits the shortest token length.
    """
    image, image_runs = _run_tower(run_image, inputs.pixels, truth.image, max_batch, few, None)
    lengths = sorted(run_texts)
    text_runs: list[Run] = []
    by_length: dict[int, tuple[NDArray[np.intp], Vectors]] = {}
    for length in lengths:
        rows = np.array([i for i, ids in enumerate(inputs.token_ids) if len(ids) <= length])
        if not rows.size:
            raise ValueError(f"no text of the evaluation set fits {length} tokens")
        items = np.stack([padded(inputs.token_ids[row], length, inputs.pad_id) for row in rows])
        found, runs = _run_tower(run_texts[length], items, truth.text[rows], max_batch, few, length)
        by_length[length] = (rows, found)
        text_runs += runs
    served = [_served(by_length, lengths[start:], truth.text) for start in range(len(lengths))]
    measured = _figures(image, served, truth, what, image_runs, text_runs)
    return Evaluation(
        measured,
        metrics.row_cosines(image, truth.image),
        metrics.row_cosines(served[0], truth.text),
    )


def _run_tower(
    run: RunTower,
    items: NDArray[Any],
    truth: Vectors,
    max_batch: int,
    few: int,
    length: int | None,
) -> tuple[Vectors, list[Run]]:
    """The vectors of all items at the largest batch, and the figures at each batch size."""
    runs = []
    found = np.empty_like(truth)
    for batch in sorted({1, min(2, max_batch), max_batch}):
        count = len(items) if batch == max_batch else min(few, len(items))
        rows = np.linspace(0, len(items) - 1, count).round().astype(np.intp)
        rows = np.resize(rows, -(-count // batch) * batch)  # full batches, from the start again
        found = np.concatenate([run(items[part]) for part in rows.reshape(-1, batch)])
        if found.shape != (len(rows), truth.shape[1]):
            raise GateError(
                f"refused: a tower gives {found.shape} for {len(rows)} items, where PyTorch has "
                f"vectors of {truth.shape[1]}"
            )
        figures = metrics.summarise(metrics.row_cosines(found, truth[rows]))
        bad = metrics.bad_vectors(found)
        runs.append(
            Run(length, batch, count, figures.min_cosine, figures.mean_cosine, figures.p1_cosine,
                bad)
        )  # fmt: skip
    return found[: len(items)], runs


def _served(
    by_length: Mapping[int, tuple[NDArray[np.intp], Vectors]],
    lengths: Sequence[int],
    truth: Vectors,
) -> Vectors:
    """Each text's vector at the shortest of `lengths` that holds it."""
    found = np.empty_like(truth)
    for length in reversed(lengths):
        rows, vectors = by_length[length]
        found[rows] = vectors
    return found


def _figures(
    image: Vectors,
    served: Sequence[Vectors],
    truth: References,
    what: EvaluationSet,
    image_runs: Sequence[Run],
    text_runs: Sequence[Run],
) -> Measured:
    texts = len(what.texts)
    classifier = partial(metrics.ensemble, templates=len(what.templates))
    over_texts = [metrics.scores(image, text[:texts]) for text in served]
    true_texts = metrics.scores(truth.image, truth.text[:texts])
    zero_shot, candidates, true_candidates = None, over_texts, true_texts
    if what.classes:
        candidates = [metrics.scores(image, classifier(text[texts:])) for text in served]
        true_candidates = metrics.scores(truth.image, classifier(truth.text[texts:]))
        if what.labels:
            zero_shot = _zero_shot(candidates, true_candidates, what.labels)
    return Measured(
        image=TowerFigures.of(image_runs),
        text=TowerFigures.of(text_runs),
        agreement=Agreement(
            true_candidates.shape[1],
            *(
                min(metrics.agreement(given, true_candidates, count) for given in candidates)
                for count in (1, 5)
            ),
        ),
        zero_shot=zero_shot,
        retrieval=_retrieval(over_texts, true_texts, what.pairs) if what.pairs else None,
    )


def _zero_shot(given: Sequence[Scores], truth: Scores, labels: Sequence[int | None]) -> ZeroShot:
    return ZeroShot(
        pictures=sum(label is not None for label in labels),
        accuracy=min(metrics.accuracy(scores, labels) for scores in given),
        pytorch_accuracy=metrics.accuracy(truth, labels),
    )


def _retrieval(given: Sequence[Scores], truth: Scores, pairs: Sequence[int | None]) -> Retrieval:
    all_recalls = [metrics.recall(scores, pairs) for scores in given]
    names = Recall.__dataclass_fields__
    return Retrieval(
        pictures=sum(pair is not None for pair in pairs),
        recall=Recall(*(min(getattr(recall, name) for recall in all_recalls) for name in names)),
        pytorch_recall=metrics.recall(truth, pairs),
    )
