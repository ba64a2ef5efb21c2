"""Runs the graphs of encoders in ONNX Runtime and OpenVINO."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.errors import CrashError, GateError, brief
from export.gate import probe
from export.gate.metrics import Vectors
from export.precision.processor import session_entries, session_options
from gateway.models.manifest import TOKEN_IDS

OPENVINO = {  # properties of a compiled graph
    "INFERENCE_PRECISION_HINT": "bf16",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "ENABLE_CPU_PINNING": "NO",
}

RunEncoder = Callable[[NDArray[Any]], Vectors]


def check_runs(path: Path, shapes: Sequence[probe.Shape], *, fp8: bool = False) -> None:
    """Run a new graph, with or without FP8 numbers, at some shapes in another process first.

    Raises:
        CrashError: ONNX Runtime crashes or does not finish.
    """
    why = probe.crash_of(path, shapes, session_entries(fp8=fp8))
    if why is not None:
        raise CrashError(f"this variant cannot run here: {why} on {path.name}")


def onnx_runner(path: Path, name: str, *, fp8: bool = False) -> RunEncoder:
    """Make a function that runs a graph, whose input has this name, in ONNX Runtime on the CPU.

    Raises:
        GateError: It fails to load or, later, to run at a shape.
    """
    with _refusing(f"{path.name}: ONNX Runtime cannot load it"):
        session = onnxruntime.InferenceSession(
            path, session_options(fp8=fp8), providers=["CPUExecutionProvider"]
        )

    def run(batch: NDArray[Any]) -> Vectors:
        with _refusing(f"refused: {path.name} does not run at shape {batch.shape}"):
            return np.asarray(session.run(None, {name: batch})[0])

    return run


def openvino_runner(path: Path, name: str) -> RunEncoder:
    """As `onnx_runner`, in OpenVINO in BF16, with the properties that `model.xml` is served with.

    Raises:
        GateError: It fails to load or, later, to run at a shape.
    """
    import openvino  # for BF16 alone

    with _refusing(f"{path.name}: OpenVINO cannot load it"):
        request = openvino.Core().compile_model(path, "CPU", OPENVINO).create_infer_request()

    def run(batch: NDArray[Any]) -> Vectors:
        with _refusing(f"refused: {path.name} does not run at shape {batch.shape}"):
            return np.array(request.infer({name: batch}, share_inputs=True)[0])

    return run


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the runtimes' errors share no public base
        raise GateError(f"{what}: {brief(error)}") from error


def text_runners(
    files: Mapping[int, Path], make: Callable[[Path, str], RunEncoder] = onnx_runner
) -> dict[int, RunEncoder]:
    """Make an `onnx_runner` or `openvino_runner` for each token length; links of one file share it.

    Raises:
        GateError: As these.
    """
    known: dict[int, RunEncoder] = {}  # by inode
    runners = {}
    for length, path in files.items():
        inode = path.stat().st_ino
        if inode not in known:
            known[inode] = make(path, TOKEN_IDS)
        runners[length] = known[inode]
    return runners
