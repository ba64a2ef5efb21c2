"""Checks that the software for a GPU is installed."""

import shutil
import subprocess
from collections.abc import Callable, Iterator

import onnxruntime

from benchmarks.reporting.results import Row
from export.tensorrt.errors import PlanError
from export.tensorrt.gpus import find_gpus, library_version
from export.tensorrt.plan import import_tensorrt
from gpu_check.lines import NOT_HERE, PASS, line
from gpu_check.sessions import Runtime
from server.errors import ServerError
from server.runtime import find_runtime

LIMIT_S = 60.0
QUERY = "name,driver_version,memory.total,clocks.max.sm,power.limit"


def lines(runtime: Runtime) -> Iterator[Row]:
    """One line for each required component."""
    yield _line("GPU", lambda: "; ".join(f"{g.name}, {g.compute_capability}" for g in find_gpus()))
    yield _line("driver", _driver)
    cuda = getattr(onnxruntime, "cuda_version", "") or "none"
    found = f"{onnxruntime.__version__}, built for CUDA {cuda}"
    verdict = NOT_HERE if runtime.missing else PASS
    yield line(
        "environment", {"what": "ONNX Runtime with CUDA", "found": found}, verdict, runtime.missing
    )
    yield _line("TensorRT library", library_version)
    yield _line("TensorRT for Python", lambda: str(import_tensorrt().__version__))
    yield _line("Triton", lambda: str(find_runtime().tritonserver))


def _line(what: str, find: Callable[[], str]) -> Row:
    try:
        return line("environment", {"what": what, "found": find()}, PASS)
    except (PlanError, ServerError) as error:
        return line("environment", {"what": what, "found": ""}, NOT_HERE, error)


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise PlanError("no nvidia-smi on PATH")
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)  # noqa: S603 (NVIDIA's)
    except subprocess.TimeoutExpired as error:
        raise PlanError(f"nvidia-smi does not answer within {LIMIT_S:g} s") from error
    if done.returncode:
        raise PlanError(f"nvidia-smi: {' '.join((done.stdout + done.stderr).split())}")
    return "; ".join(done.stdout.splitlines())
