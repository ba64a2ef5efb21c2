"""A Python-based Triton backend named ``onnxruntime``: ONNX models without NVIDIA's container.

Triton imports this file in a stub process per model instance. If NVIDIA's own
``libtriton_onnxruntime.so`` is installed, Triton uses that instead with the same ``config.pbtxt``;
see ``options`` for the supported keys.
"""

from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from server.backends.batches import Call
from server.backends.instance import Instance
from server.backends.onnxruntime.cuda import cuda_session
from server.backends.onnxruntime.options import Settings
from server.backends.onnxruntime.signature import signature_of
from server.backends.onnxruntime.split import SplitSession, threads_of
from server.backends.signature import Signature


class TritonPythonModel(Instance):
    """One instance of one model."""

    default_file = "model.onnx"
    invalid = (InvalidArgument,)
    gpus = True

    def load(self, path: Path, config: dict[str, Any]) -> tuple[Signature, Call, str]:
        """Load an ONNX graph; see `Instance.load`."""
        settings = Settings.read(config)
        session = _session(path, settings, config, self.device)
        call = partial(session.run, run_options=settings.run_options())
        return signature_of(session), call, str(settings)


def _session(
    path: Path, settings: Settings, config: dict[str, Any], device: int | None
) -> ort.InferenceSession:
    options = settings.session_options()
    if device is not None:
        return cuda_session(path, options, config, device)
    threads = threads_of(settings)
    batched = int(config.get("max_batch_size", 0)) > 0
    if settings.split_batches and batched and threads > 1:
        return SplitSession(path, settings, threads)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
