"""Arithmetic on embeddings."""

import numpy as np
import pytest

from gateway.pipeline.scoring import cosines, normalise


@pytest.mark.parametrize("size", [64, 512, 768])
def test_equal_vectors_have_equal_cosines_wherever_they_stand(size: int) -> None:
    random = np.random.default_rng(0)
    image, text = normalise(random.standard_normal((2, size)).astype(np.float32))
    exact = float(image.astype(np.float64) @ text.astype(np.float64))
    for count in range(2, 60):
        found = cosines(image[None], np.tile(text, (count, 1)))
        assert found.shape == (1, count)
        assert np.unique(found).size == 1
        np.testing.assert_allclose(found, exact, atol=1e-9)


def test_a_cosine_is_never_over_one() -> None:
    vectors = normalise(np.random.default_rng(1).standard_normal((50, 33)).astype(np.float32))
    assert np.abs(cosines(vectors, vectors)).max() <= 1
