"""Runs the rows of a batch in parallel, each part in its own thread."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from server.backends.onnxruntime.options import Settings

ROWS = 2  # for each thread; fewer are quicker on all threads together


class SplitSession(ort.InferenceSession):  # type: ignore[misc] # untyped
    """A session with all threads for few rows, and one with one thread for each part of a batch.

    Threads that share a call wait for each other after every operator; threads with their own rows
    do not. Each session has its own copy of the weights: ONNX Runtime shares prepacked ones only
    through its C API, and graphs saved with them (1.31) crash if operators share a weight.
    """

    def __init__(self, path: Path, settings: Settings, threads: int) -> None:
        """Load the graph."""
        whole, single = (
            replace(settings, intra_op_thread_count=count).session_options()
            for count in (threads, 1)
        )
        super().__init__(path, whole, providers=["CPUExecutionProvider"])
        self._single = ort.InferenceSession(path, single, providers=["CPUExecutionProvider"])
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def run(
        self, names: list[str], inputs: dict[str, np.ndarray], run_options: ort.RunOptions
    ) -> list[np.ndarray]:
        """Run a batch; every input is [rows, ...], and so is every output."""
        if len(next(iter(inputs.values()))) < ROWS * self._threads:
            return list(super().run(names, inputs, run_options))
        cut = [np.array_split(array, self._threads) for array in inputs.values()]
        parts = [dict(zip(inputs, arrays, strict=True)) for arrays in zip(*cut, strict=True)]
        outputs = self._pool.map(lambda part: self._single.run(names, part, run_options), parts)
        return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]


def threads_of(settings: Settings) -> int:
    """The number of threads that one instance may use."""
    return settings.intra_op_thread_count or len(os.sched_getaffinity(0))
