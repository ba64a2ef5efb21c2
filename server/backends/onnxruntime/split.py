"""Runs the rows of a batch side by side, each part by one thread, on one copy of the weights."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort

from server.backends.onnxruntime.options import Settings

CPU = ["CPUExecutionProvider"]
ERROR = 3  # of ONNX Runtime's log severities
WEIGHTS_BYTES = 1024  # smaller constants stay in the graph
ROWS = 4  # for each thread; with fewer, parts differ too much in length
# The copy holds each weight as it was and as the processor wants it.
COPY = 2.2  # times the size of the graph


class SplitSession:
    """A graph in two sessions: all threads for few rows, one thread for each part of a batch.

    Threads that share a call wait for each other after every operator; threads that have rows of
    their own do not. The sessions map one file of weights, so these are in memory once.
    """

    def __init__(self, path: Path, settings: Settings, threads: int) -> None:
        """Load the graph.

        Raises:
            OSError: There is no room for the copy of the weights in the temporary folder.
        """
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        with _copied(path, settings) as copy:
            self._whole = _mapped(copy, settings, threads)
            self._single = _mapped(copy, settings, 1)

    def run(
        self, names: list[str], inputs: dict[str, np.ndarray], run_options: ort.RunOptions
    ) -> list[np.ndarray]:
        """Run a batch; every input is [rows, ...], and so is every output."""
        rows = len(next(iter(inputs.values())))
        if rows < ROWS * self._threads:
            return list(self._whole.run(names, inputs, run_options))
        cut = [np.array_split(array, self._threads) for array in inputs.values()]
        parts = [dict(zip(inputs, arrays, strict=True)) for arrays in zip(*cut, strict=True)]
        outputs = self._pool.map(lambda part: self._single.run(names, part, run_options), parts)
        return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]

    def get_inputs(self) -> list[ort.NodeArg]:
        """See `InferenceSession`."""
        return list(self._whole.get_inputs())

    def get_outputs(self) -> list[ort.NodeArg]:
        """See `InferenceSession`."""
        return list(self._whole.get_outputs())

    def get_providers(self) -> list[str]:
        """See `InferenceSession`."""
        return list(self._whole.get_providers())


def threads_of(settings: Settings) -> int:
    """The number of threads that one instance may use."""
    return settings.intra_op_thread_count or len(os.sched_getaffinity(0))


@contextmanager
def _copied(path: Path, settings: Settings) -> Iterator[Path]:
    """An optimized copy of a graph beside its weights, laid out as its operators read them.

    It is gone after the block; sessions that were made in the block keep their maps of it.
    """
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    with TemporaryDirectory(prefix="openclip-weights-") as folder:
        if shutil.disk_usage(folder).free < COPY * size:
            raise OSError(f"{folder} has less than {COPY * size / 2**20:.0f} MiB of room")
        copy = Path(folder) / "model.onnx"
        options = settings.session_options()
        options.log_severity_level = ERROR  # it warns that the copy is for this processor alone
        options.optimized_model_filepath = str(copy)
        for key, value in (
            ("optimized_model_external_initializers_file_name", "weights"),
            ("optimized_model_external_initializers_min_size_in_bytes", str(WEIGHTS_BYTES)),
            ("save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(f"session.{key}", value)
        ort.InferenceSession(path, options, providers=CPU)
        yield copy


def _mapped(copy: Path, settings: Settings, threads: int) -> ort.InferenceSession:
    options = settings.session_options(spinning=True)  # a few rows have all threads to themselves
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # done already
    options.intra_op_num_threads = threads
    return ort.InferenceSession(copy, options, providers=CPU)
