"""Times ONNX files of one model against each other on ONNX Runtime's CPU provider.

    python -m benchmarks.experiments.int8_forms fp32.onnx qdq.onnx dynamic.onnx --batch 8

The runs are interleaved in one process, so that what else the machine does falls on all files
alike. The first file is what the others are compared with, in speed and in cosine.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

DTYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32}
TOKEN_LIMIT = 1000  # of random token ids; every OpenCLIP vocabulary but toys has more


@dataclass(frozen=True, slots=True)
class Row:
    """What one file did."""

    name: str
    milliseconds: float  # median of a run
    per_second: float  # items
    speedup: float  # over the first file
    cosine: float  # mean, to the first file's vectors


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Loads a file with all of ONNX Runtime's optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def make_batch(session: onnxruntime.InferenceSession, batch: int, length: int) -> NDArray[np.int_]:
    """Random input of the type that a session takes; `length` fills every free axis but one."""
    (item,) = session.get_inputs()
    rng, dtype = np.random.default_rng(5), DTYPES[item.type]
    shape = [batch, *(n if isinstance(n, int) else length for n in item.shape[1:])]
    high = 256 if dtype is np.uint8 else TOKEN_LIMIT
    return rng.integers(1, high, shape).astype(dtype)


def compare(paths: Sequence[Path], batch: int, rounds: int, threads: int, length: int) -> list[Row]:
    """Runs every file once per round, in turn, and takes medians."""
    sessions = [open_session(path, threads) for path in paths]
    feed = make_batch(sessions[0], batch, length)
    name = sessions[0].get_inputs()[0].name
    vectors = [np.asarray(session.run(None, {name: feed})[0]) for session in sessions]
    times = np.empty((rounds, len(paths)))
    for turn in range(rounds):
        for index, session in enumerate(sessions):
            started = time.perf_counter()
            session.run(None, {name: feed})
            times[turn, index] = time.perf_counter() - started
    medians = np.median(times, axis=0)
    return [
        Row(
            path.name,
            1000 * median,
            batch / median,
            medians[0] / median,
            float((vector * vectors[0]).sum(axis=1).mean()),
        )
        for path, median, vector in zip(paths, medians, vectors, strict=True)
    ]


def main() -> None:
    """Reads the arguments and prints one line per file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path, help="ONNX files; the first is the measure")
    parser.add_argument("--batch", type=int, default=8, help="items per run (default: 8)")
    parser.add_argument("--rounds", type=int, default=15, help="runs per file (default: 15)")
    parser.add_argument("--threads", type=int, default=0, help="0 means one per core")
    parser.add_argument("--length", type=int, default=32, help="tokens, for a text encoder")
    options = parser.parse_args()
    rows = compare(options.files, options.batch, options.rounds, options.threads, options.length)
    for row in rows:
        print(
            f"{row.name:32} {row.milliseconds:8.1f} ms {row.per_second:8.1f} items/s "
            f"{row.speedup:5.2f}x  cosine {row.cosine:.5f}"
        )


if __name__ == "__main__":
    main()
