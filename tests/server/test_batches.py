"""Which requests join a run, and what each gets back."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnxruntime as ort
import pytest

from server.backends.batches import Item, Runner
from tests.server import tiny

pytestmark = pytest.mark.slow


class CountedSession(ort.InferenceSession):  # type: ignore[misc]
    """A real session that keeps the row count of each run."""

    def run(
        self, names: list[str], inputs: dict[str, np.ndarray], options: object = None
    ) -> list[np.ndarray]:
        self.runs = [*getattr(self, "runs", []), len(inputs["ids"])]
        answers: list[np.ndarray] = super().run(names, inputs, options)
        return answers


@pytest.fixture
def session() -> CountedSession:
    return CountedSession(tiny.text_graph("length").SerializeToString())


def items(*batches: list[list[int]]) -> Iterator[Item]:
    for index, ids in enumerate(batches):
        yield Item(index, {"ids": np.array(ids, np.int32)}, ("vector",))


def test_equal_lengths_join_and_each_gets_its_rows(session: CountedSession) -> None:
    runner = Runner(session.run, 8)
    batches = [[[1, 1], [2, 2]], [[3, 3, 3]], [[4, 4]]]
    results = {item.index: result for item, result in runner.run(items(*batches))}
    assert sorted(session.runs) == [1, 3]
    for index, rows in enumerate(batches):
        result = results[index]
        assert isinstance(result, dict)
        np.testing.assert_array_equal(result["vector"], tiny.TABLE[[ids[0] for ids in rows]])


def test_a_run_never_has_more_rows_than_max_batch_size(session: CountedSession) -> None:
    runner = Runner(session.run, 4)
    batches = [[[1, 1]] * 3, [[2, 2]] * 2, [[3, 3]] * 2]
    assert len(list(runner.run(items(*batches)))) == 3
    assert session.runs == [3, 4]


def test_requests_never_join_without_batching(session: CountedSession) -> None:
    runner = Runner(session.run, 0)
    assert len(list(runner.run(items([[1, 1]], [[2, 2]])))) == 2
    assert session.runs == [1, 1]


def test_a_failed_joint_run_is_repeated_one_by_one(session: CountedSession) -> None:
    options = ort.RunOptions()
    options.log_severity_level = 4
    runner = Runner(partial(session.run, options=options), 8)
    batches = [[[1, 1]], [[99, 1]], [[2, 2]]]
    results = [result for _, result in runner.run(items(*batches))]
    assert session.runs == [3, 1, 1, 1]
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
