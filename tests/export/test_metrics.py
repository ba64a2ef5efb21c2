from dataclasses import astuple

import numpy as np
import pytest

from export.gate import metrics
from export.gate.metrics import Vectors
from gateway.models.gate import EncoderFigures, Run


def unit(count: int, size: int = 8, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def test_row_cosines_whatever_the_lengths() -> None:
    rows = unit(5)
    np.testing.assert_allclose(metrics.row_cosines(rows * np.float32(3), rows), 1)
    np.testing.assert_allclose(metrics.row_cosines(-rows, rows), -1)
    np.testing.assert_allclose(
        metrics.row_cosines(rows[:2], rows[2:4]), (rows[:2] * rows[2:4]).sum(-1), atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_row_that_points_nowhere_has_cosine_zero(value: float) -> None:
    found = unit(3)
    found[1] = value
    np.testing.assert_allclose(metrics.row_cosines(found, unit(3)), [1, 0, 1])
    assert metrics.bad_vectors(found) == 1


@pytest.mark.parametrize(("factor", "bad"), [(1.0, 0), (1.0005, 0), (1.002, 4), (0.99, 4)])
def test_bad_vectors_are_not_of_length_one(factor: float, bad: int) -> None:
    assert metrics.bad_vectors(unit(4) * np.float32(factor)) == bad


def test_worst_of_runs() -> None:
    runs = (Run(16, 1, 9, 0.9, 0.99, 0.95, 0), Run(77, 2, 9, 0.8, 0.999, 0.96, 2))
    assert EncoderFigures.of(runs) == EncoderFigures(0.8, 0.99, 0.95, 2, runs)


def test_ensemble_is_the_renormalised_mean_by_class() -> None:
    prompts = unit(6)
    expected = prompts[2:4].mean(axis=0)
    found = metrics.ensemble(prompts, templates=2)
    assert found.shape == (3, 8)
    np.testing.assert_allclose(found[1], expected / np.linalg.norm(expected), rtol=1e-6)


def test_agreement_counts_shared_candidates() -> None:
    truth = np.array([[6, 5, 4, 3, 2, 1, 0], [6, 5, 4, 3, 2, 1, 0]], np.float64)
    found = np.array([[5, 6, 4, 3, 2, 1, 0], [6, 5, 4, 0, 1, 2, 3]], np.float64)
    assert metrics.agreement(found, truth, 1) == 0.5
    assert metrics.agreement(found, truth, 5) == pytest.approx((1 + 3 / 5) / 2)
    assert metrics.agreement(truth, truth, 5) == 1


def test_agreement_with_fewer_candidates_than_asked_for() -> None:
    truth = np.array([[2.0, 1.0]])
    assert metrics.agreement(truth[:, ::-1], truth, 5) == 1
    assert metrics.agreement(truth[:, ::-1], truth, 1) == 0


def test_accuracy_passes_over_pictures_without_a_label() -> None:
    given = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float64)
    assert metrics.accuracy(given, [0, 1, None, 2]) == pytest.approx(2 / 3)


def test_vectors_all_alike_score_no_better_than_chance() -> None:
    alike = np.repeat(unit(1), 10, axis=0)
    given = metrics.scores(alike, alike)
    assert metrics.accuracy(given, list(range(10))) == pytest.approx(0.1)
    found = metrics.recall(given, list(range(10)))
    assert astuple(found) == pytest.approx((0.1, 0.5, 0.1, 0.5))


def test_vectors_that_are_not_finite_score_nothing() -> None:
    images = unit(2)
    images[0] = np.nan
    given = metrics.scores(images, unit(3, seed=1))
    assert (given[0] == 0).all()
    assert np.isfinite(given).all()


def test_recall_both_ways() -> None:
    # Pictures 0 and 1 share text 0; picture 2 has text 1; picture 3 has none.
    given = np.array([[9, 1, 0], [1, 9, 0], [0, 9, 1], [8, 0, 9]], np.float64)
    found = metrics.recall(given, [0, 0, 1, None])
    assert found.image_to_text_at_1 == pytest.approx(2 / 3)
    assert found.image_to_text_at_5 == 1
    assert found.text_to_image_at_1 == 0.5  # text 1 ties pictures 1 and 2: the first comes first
    assert found.text_to_image_at_5 == 1
