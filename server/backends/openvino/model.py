"""A Python-based Triton backend named ``openvino``: OpenVINO graphs on a CPU.

Triton imports this file in a stub process per model instance. Its ``config.pbtxt`` is that of
NVIDIA's openvino_backend; see ``options`` for the supported keys.
"""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from server.backends.batches import Call, Tensors
from server.backends.errors import ConfigError
from server.backends.instance import Instance
from server.backends.openvino.options import Settings
from server.backends.signature import NUMPY_TYPES, Signature, TensorSpec

try:
    import openvino as ov
except ImportError as error:
    raise ImportError(
        f"this model needs the Python package openvino: pip install --no-deps -r "
        f"requirements/openvino.txt ({error})"
    ) from None

TRITON_TYPES = {kind: name for name, kind in NUMPY_TYPES.items()}


class TritonPythonModel(Instance):
    """One instance of one model."""

    default_file = "model.xml"  # next to it model.bin, which OpenVINO maps into memory

    def load(self, path: Path, config: dict[str, Any]) -> tuple[Signature, Call, str]:
        """Compile an OpenVINO graph; see `Instance.load`."""
        settings = Settings.read(config)
        if settings.warning:
            pb_utils.Logger.log_warn(f"{path}: {settings.warning}")
        signature, self._request = _loaded(path, settings)
        return signature, self._run, str(settings)

    def finalize(self) -> None:
        """Release the graph while the interpreter runs; later, that crashes the stub."""
        del self._request

    def _run(self, outputs: list[str], inputs: Tensors) -> list[np.ndarray]:
        self._request.infer(inputs, share_inputs=True)
        # Copied: the next run writes to the same memory.
        return [self._request.get_tensor(name).data.copy() for name in outputs]


def _loaded(path: Path, settings: Settings) -> tuple[Signature, ov.InferRequest]:
    core = ov.Core()
    # Read before it is compiled: compiling gives an input the names of casts that it drops.
    model = core.read_model(path)
    signature = Signature(tuple(map(_spec, model.inputs)), tuple(map(_spec, model.outputs)))
    return signature, core.compile_model(model, "CPU", settings.properties).create_infer_request()


def _spec(port: ov.Output) -> TensorSpec:
    kind = np.dtype(port.get_element_type().to_dtype())
    dims = tuple(dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape())
    if kind not in TRITON_TYPES:
        raise ConfigError(f"tensor '{port.get_any_name()}': {kind} is not supported")
    return TensorSpec(port.get_any_name(), TRITON_TYPES[kind], dims)
