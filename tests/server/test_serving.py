"""The onnxruntime backend under the real tritonserver."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.server import tiny
from tests.server.conftest import Served

pytestmark = pytest.mark.slow


def mean_row(ids: list[int]) -> np.ndarray:
    row: np.ndarray = tiny.TABLE[ids].mean(axis=0)
    return row


def test_pixels_arrive_and_vectors_return_unchanged(served: Served) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 3), np.uint8)
    vectors = served.infer("demo.image", "pixels", pixels)
    np.testing.assert_array_equal(vectors, pixels.reshape(8, 12) / np.float32(2))


def test_tensors_larger_than_the_shared_memory_make_it_grow(served: Served) -> None:
    ids = np.tile(np.arange(tiny.VOCABULARY, dtype=np.int32), (8, 30_000))
    assert ids.nbytes > 2 * served.server.config.shm_bytes
    vectors = served.infer("wide.text", "ids", ids)
    expected = tiny.TABLE.mean(axis=0)
    np.testing.assert_allclose(vectors, np.tile(expected, (8, 1)), rtol=1e-4)


def test_one_model_takes_any_length(served: Served) -> None:
    for ids in ([1, 2, 3], [4], [5, 6, 7, 8, 9]):
        np.testing.assert_allclose(served.text([ids], "wide.text"), [mean_row(ids)], rtol=1e-6)


def test_rows_that_run_side_by_side_come_back_in_their_places(served: Served) -> None:
    ids = [[index, index + 1] for index in range(8)]
    np.testing.assert_allclose(served.text(ids, "wide.text"), [mean_row(row) for row in ids])
    assert any("wide.text" in line and "split_batches=True" in line for line in served.log)


def test_concurrent_requests_run_as_one_batch_with_their_own_answers(served: Served) -> None:
    def ask() -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: served.text([[i, 0, i, 0]]), range(8)))
        for index, answer in enumerate(answers):
            np.testing.assert_allclose(answer, [mean_row([index, 0, index, 0])])

    until_joined(served, ask)


def until_joined(served: Served, ask: Callable[[], None]) -> None:
    """Ask until all requests of one time have run together.

    On a busy machine they may reach Triton too far apart for that.
    """
    for _ in range(20):
        before = batches(served)
        ask()
        after = batches(served)
        if [size for size, count in after.items() if count > before.get(size, 0)] != [1]:
            return
    pytest.fail("no two requests ran together")


def batches(served: Served) -> dict[int, int]:
    """Executions of demo.text-4 by batch size, from Triton's own statistics."""
    statistics = served.client.get_inference_statistics(
        "demo.text-4", headers=served.secret
    ).model_stats[0]
    return {batch.batch_size: batch.compute_infer.count for batch in statistics.batch_stats}


def test_a_request_that_fails_in_a_batch_harms_no_other(served: Served) -> None:
    def answer(token: int) -> list[float] | str:
        try:
            return [float(value) for value in served.text([[token] * 4])[0]]
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"

    def ask() -> None:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(answer, [1, 2, tiny.VOCABULARY + 5, 3]))
        bad = answers.pop(2)
        assert answers == [tiny.TABLE[token].tolist() for token in (1, 2, 3)]
        assert isinstance(bad, str)
        assert "INVALID_ARGUMENT" in bad
        assert "out of data bounds" in bad

    until_joined(served, ask)


def test_a_wrong_shape_is_refused_and_the_next_request_is_served(served: Served) -> None:
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        served.text([[1, 2, 3]])
    np.testing.assert_allclose(served.text([[1, 2, 3, 4]]), [mean_row([1, 2, 3, 4])])


def test_every_key_reaches_the_session(served: Served) -> None:
    line = next(line for line in served.log if '"keys.image_0_0: ' in line)
    for setting in (
        "intra_op_thread_count=1",
        "inter_op_thread_count=2",
        "execution_mode=1",
        "graph_level=2",
        "enable_mem_arena=False",
        "enable_mem_pattern=False",
    ):
        assert setting in line


def test_only_published_models_are_loaded(served: Served) -> None:
    index = served.client.get_model_repository_index(headers=served.secret).models
    ready = {model.name for model in index if model.state == "READY"}
    assert ready == {name for model in served.server.models for name in model.triton_models}
    assert "stray" not in ready
