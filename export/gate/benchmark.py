"""CLIP_benchmark's metrics on data sets, under its names, of a variant and of PyTorch.

Scores equal CLIP_benchmark's except for rounding: it sums in float32, and leaves the order of
candidates with equal scores to PyTorch.
"""

import numpy as np
from numpy.typing import NDArray

from export.gate import metrics
from export.gate.evaluation import EvaluationSet
from export.gate.metrics import Vectors
from export.gate.reference import References
from export.storage.data_set import DataSet
from gateway.models.gate import DATA_SET_ACCURACY, DATA_SET_RECALLS, DataSetFigures

_FIRST = 5  # candidates that count for `acc5` and for the recalls


def benchmark(
    found: References, truth: References, dataset: EvaluationSet
) -> tuple[DataSetFigures, ...]:
    """Measure each data set of an evaluation set, with the variant's vectors and with PyTorch's."""
    figures = []
    picture, text = len(dataset.pictures), len(dataset.texts) + len(dataset.prompts)
    for each in dataset.data_sets:
        pictures = slice(picture, picture + len(each.pictures))
        texts = slice(text, text + len(each.texts))
        ours, pytorch = (
            _metrics(each, vectors.image[pictures], vectors.text[texts])
            for vectors in (found, truth)
        )
        figures.append(DataSetFigures(each.name, len(each.pictures), ours, pytorch))
        picture, text = pictures.stop, texts.stop
    return tuple(figures)


def _metrics(given: DataSet, image: Vectors, text: Vectors) -> dict[str, float]:
    if not given.classes:
        return _retrieval(np.array(given.owners), image, text)
    classifier = metrics.ensemble(text, len(given.templates))
    return _classification(np.array(given.labels), image, classifier)


def _classification(
    labels: NDArray[np.int64], image: Vectors, classifier: Vectors
) -> dict[str, float]:
    hits = metrics.nearest(image, classifier, _FIRST) == labels[:, None]
    found = {DATA_SET_ACCURACY: float(hits[:, 0].mean())}
    if len(classifier) >= _FIRST:
        found["acc5"] = float(hits.any(axis=1).mean())
    recalls = [hits[labels == label, 0].mean() for label in np.unique(labels)]
    return found | {"mean_per_class_recall": float(np.mean(recalls))}


def _retrieval(owners: NDArray[np.int64], image: Vectors, text: Vectors) -> dict[str, float]:
    """Recall of each caption's picture, and of any caption of each picture."""
    of_texts = metrics.nearest(text, image, _FIRST) == owners[:, None]
    of_images = owners[metrics.nearest(image, text, _FIRST)] == np.arange(len(image))[:, None]
    shares = (float(hits.any(axis=1).mean()) for hits in (of_texts, of_images))
    return dict(zip(DATA_SET_RECALLS, shares, strict=True))
