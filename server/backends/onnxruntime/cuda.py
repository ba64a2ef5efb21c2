"""Sessions on a GPU, with ONNX Runtime's CUDA provider.

For `make gpu-check` where NVIDIA's image, whose own backend takes the same key, is not at hand.
"""

from pathlib import Path
from typing import Any

import onnxruntime as ort

from server.backends.errors import ConfigError

CUDA = "CUDAExecutionProvider"
SEARCH = "cudnn_conv_algo_search"
SEARCHES = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}  # as in the C++ backend


def cuda_session(
    path: Path, options: ort.SessionOptions, config: dict[str, Any], device: int
) -> ort.InferenceSession:
    """Load a graph onto a GPU.

    Raises:
        ConfigError: This ONNX Runtime has no CUDA or cannot load it, or the search is unknown.
    """
    search = config.get("parameters", {}).get(SEARCH, {}).get("string_value", "0")
    if search not in SEARCHES:
        raise ConfigError(f"parameter {SEARCH}: expected 0, 1 or 2, not '{search}'")
    if CUDA not in ort.get_available_providers():
        raise ConfigError(
            f"instance_group kind KIND_GPU: this onnxruntime has no {CUDA}; "
            "use KIND_CPU, or requirements/gpu.txt"
        )
    ort.preload_dlls()  # CUDA's libraries, where they are packages of this Python
    provider = (CUDA, {"device_id": device, SEARCH: SEARCHES[search]})
    session = ort.InferenceSession(path, options, providers=[provider, "CPUExecutionProvider"])
    if CUDA not in session.get_providers():  # ONNX Runtime only warns
        raise ConfigError(
            f"instance_group kind KIND_GPU: onnxruntime cannot load its {CUDA}; its message names "
            "the library that is missing"
        )
    return session
