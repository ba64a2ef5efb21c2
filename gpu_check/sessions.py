"""Encoders in ONNX Runtime, with inputs and outputs bound to memory of the device."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.systems.encoders import repeat
from benchmarks.systems.processes import proportional_bytes
from export.errors import brief
from export.tensorrt.errors import PlanError
from gpu_check.cuda import Device
from gpu_check.engines import Bound, EngineError, Run

CUDA = "CUDAExecutionProvider"
SERVED = {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"}  # as in `config.pbtxt`
NO_TF32 = {"use_tf32": "0"}
GRAPHS = {"enable_cuda_graph": "1"}
NONE = -1  # graph id for a run without capture or replay
SIDES: dict[str, tuple[int, type[np.floating[Any]]]] = {
    "cuda": (8192, np.float16),
    "cpu": (1024, np.float32),
}  # side of the matrices whose product measures the limit


class Runtime:
    """ONNX Runtime on the first GPU, or on the CPU if its CUDA provider cannot be used.

    Attributes:
        device: `cuda` or `cpu`.
        missing: Why CUDA cannot be used; empty if it can.
    """

    def __init__(self) -> None:
        """Find out by opening a small graph."""
        self._gpu: Device | None = None
        self.missing, self.device = "", "cpu"
        if CUDA not in onnxruntime.get_available_providers():
            self.missing = "this ONNX Runtime has no CUDA provider; install requirements/gpu.txt"
            return
        onnxruntime.preload_dlls()
        try:
            self._gpu = Device()
            self.open(_product(8, np.float32), SERVED)
            self.device = "cuda"
        except (PlanError, EngineError) as error:
            self.missing = str(error)

    @property
    def name(self) -> str:
        """Name for the output lines."""
        return f"ONNX Runtime {self.device.upper()}"

    def open(self, graph: Path | bytes, options: Mapping[str, str] | None) -> Any:  # noqa: ANN401 (onnxruntime is untyped)
        """Open a session; on CUDA if there are options for it.

        Raises:
            EngineError: It fails, or runs on the CPU instead of CUDA.
        """
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as served
        chosen = [(CUDA, dict(options))] if options is not None else []
        try:
            session = onnxruntime.InferenceSession(
                graph, settings, providers=[*chosen, "CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise EngineError(f"ONNX Runtime cannot load the graph: {brief(error)}") from error
        if chosen and session.get_providers()[0] != CUDA:
            raise EngineError("ONNX Runtime's CUDA provider cannot be loaded; see its message")
        return session

    def used_bytes(self) -> int:
        """Memory in use: of the GPU by all processes, or of this process."""
        if self._gpu is not None and self.device == "cuda":
            return self._gpu.used_bytes()
        return proportional_bytes(os.getpid())

    def limit(self, seconds: float) -> float:
        """Operations per second of one large matrix product, the reference for encoders."""
        side, dtype = SIDES[self.device]
        session = self.open(_product(side, dtype), SERVED if self.device == "cuda" else None)
        left = np.random.default_rng(0).standard_normal((side, side), np.float32).astype(dtype)
        run, _ = _bound(session, self.device, left, (side, side))
        return 2 * side**3 / min(repeat(run, seconds))


class OnnxEngine:
    """A graph in ONNX Runtime; see `engines.Engine`."""

    def __init__(self, runtime: Runtime, path: Path, size: int, options: Mapping[str, str]) -> None:
        """Open the graph, whose one output is float32 [n, size].

        `options` are further ones of the CUDA provider, ignored on the CPU.

        Raises:
            EngineError: It cannot be opened.
        """
        self._runtime, self._path, self._size = runtime, path, size
        self._options = {**SERVED, **options} if runtime.device == "cuda" else None
        self._session = runtime.open(path, self._options)
        self._captured: Any = None  # a session with CUDA graphs, one for each batch size

    def bind(self, items: NDArray[Any], *, graph: bool) -> Bound:
        """See `engines.Engine`."""
        session = self._session
        if graph:
            options = {**(self._options or {}), **GRAPHS}
            self._captured = self._captured or self._runtime.open(self._path, options)
            session = self._captured
        number = len(items) if graph else NONE
        run, found = _bound(session, self._runtime.device, items, (len(items), self._size), number)
        run()  # the first run captures
        found.update_inplace(np.zeros((len(items), self._size), np.float32))
        return run, lambda: np.asarray(found.numpy())


def _bound(
    session: Any,  # noqa: ANN401 (as above)
    device: str,
    items: NDArray[Any],
    shape: tuple[int, int],
    graph: int = NONE,
) -> tuple[Run, Any]:
    """Bind input and output, float32 or of the input's real type, to memory of the device.

    Returns:
        What runs it, and the output.
    """
    values = onnxruntime.OrtValue
    given = values.ortvalue_from_numpy(np.ascontiguousarray(items), device, 0)
    kind = items.dtype if items.dtype.kind == "f" else np.float32
    found = values.ortvalue_from_shape_and_type(list(shape), kind, device, 0)
    binding, options = session.io_binding(), onnxruntime.RunOptions()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, given)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, found)
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return lambda: session.run_with_iobinding(binding, options), found


def _product(side: int, dtype: type[np.generic]) -> bytes:
    """Make a graph that multiplies its input by a constant, both [side, side]."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = np.random.default_rng(1).standard_normal((side, side), np.float32).astype(dtype)
    left, made = (helper.make_tensor_value_info(n, kind, (side, side)) for n in ("left", "made"))
    node = helper.make_node("MatMul", ["left", "right"], ["made"])
    right = numpy_helper.from_array(values, "right")
    graph = helper.make_graph([node], "product", [left], [made], [right])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())
