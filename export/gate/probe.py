"""Runs a new graph in a child process first, so that a crash does not end the export.

ONNX Runtime is C++, and its optimizers have crashed on valid FP16 graphs. The child runs this file,
which needs only NumPy and ONNX Runtime.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMEOUT_S = 900.0  # a large encoder takes minutes on a busy machine
CHILD = Path(__file__)

Shape = tuple[int, ...]  # of the graph's one input, batch first


def crash_of(path: Path, shapes: Sequence[Shape], entries: Mapping[str, str]) -> str | None:
    """Describe the crash of a graph, or return None if it runs.

    Errors that ONNX Runtime reports do not count as crashes: they appear again when the graph is
    used.
    """
    # Isolated, so that modules next to this file do not shadow the standard library.
    command = [sys.executable, "-I", str(CHILD), str(path)]
    command += [json.dumps(list(shapes)), json.dumps(dict(entries))]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)  # noqa: S603 (a fixed program)
    except subprocess.TimeoutExpired:
        return f"ONNX Runtime had not finished after {TIMEOUT_S:g} s"
    if ended.returncode >= 0:
        return None
    number = -ended.returncode
    hint = ", often out of memory" if number == signal.SIGKILL else ""
    return f"ONNX Runtime ended with signal {number} ({_name(number)}{hint})"


def items(shape: Shape) -> NDArray[Any]:
    """Make pictures, uint8 [n, S, S, 3], or texts that fill their rows, int32 [n, length].

    A packed encoder drops everything after a row's end token, which has the largest id or a small
    one. So the ids count down, and the last is the largest.
    """
    if len(shape) != 2:
        return np.ones(shape, np.uint8)
    length = shape[1]
    return np.broadcast_to([*range(length - 1, 0, -1), length], shape).astype(np.int32)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _run(path: str, shapes: Sequence[Sequence[int]], entries: Mapping[str, str]) -> None:
    import resource  # only the child gives up core files

    import onnxruntime

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    for shape in shapes:
        session.run(None, {given.name: items(tuple(shape))})


if __name__ == "__main__":
    _run(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]))
