"""Batches whose rows run side by side: the results."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from server.backends.onnxruntime.options import Settings
from server.backends.onnxruntime.split import SplitSession, threads_of
from tests.server import tiny

pytestmark = pytest.mark.slow

THREADS = 3


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.text_graph("length").SerializeToString())
    return path


def run(session: SplitSession, rows: int) -> np.ndarray:
    ids = np.arange(rows * 2, dtype=np.int32).reshape(rows, 2) % tiny.VOCABULARY
    options = ort.RunOptions()
    options.log_severity_level = 4
    [vectors] = session.run(["vector"], {"ids": ids}, options)
    np.testing.assert_array_equal(vectors, tiny.TABLE[ids].mean(axis=1, dtype=np.float32))
    return vectors


@pytest.mark.parametrize("rows", [1, 2, 11, 12, 13, 32])
def test_every_row_comes_back_in_its_place(graph: Path, rows: int) -> None:
    session = SplitSession(graph, Settings(), THREADS)
    assert run(session, rows).shape == (rows, 3)


def test_one_bad_row_fails_the_call(graph: Path) -> None:
    session = SplitSession(graph, Settings(), THREADS)
    ids = np.array([[1, 1]] * 11 + [[tiny.VOCABULARY, 1]], np.int32)
    options = ort.RunOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(["vector"], {"ids": ids}, options)


def test_the_threads_are_those_of_the_configuration_or_of_the_machine() -> None:
    assert threads_of(Settings(intra_op_thread_count=5)) == 5
    assert threads_of(Settings()) >= 1
