"""What a GPU instance needs; on a machine without a GPU its refusals are all that can be seen."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from server.backends.errors import ConfigError
from server.backends.onnxruntime.cuda import CUDA, cuda_session


def load(search: str = "1") -> Any:
    config = {"parameters": {"cudnn_conv_algo_search": {"string_value": search}}}
    return cuda_session(Path("model.onnx"), ort.SessionOptions(), config, 1)


def test_an_onnxruntime_without_cuda_is_refused() -> None:
    with pytest.raises(ConfigError, match="KIND_GPU: this onnxruntime has no CUDA"):
        load()


def test_an_unknown_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="cudnn_conv_algo_search: expected 0, 1 or 2, not '3'"):
        load("3")


@pytest.mark.parametrize("works", [True, False])
def test_the_gpu_and_the_search_reach_onnxruntime_and_no_cpu_stands_in(
    monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    seen: list[Any] = []
    used = [CUDA, "CPUExecutionProvider"] if works else ["CPUExecutionProvider"]

    def session(path: Path, options: ort.SessionOptions, providers: list[Any]) -> Any:
        seen.extend(providers)
        return SimpleNamespace(get_providers=lambda: used)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(ort, "InferenceSession", session)
    if works:
        assert load().get_providers() == used
    else:
        with pytest.raises(ConfigError, match="KIND_GPU: onnxruntime cannot load its CUDA"):
            load()
    options = {"device_id": 1, "cudnn_conv_algo_search": "HEURISTIC"}
    assert seen == [(CUDA, options), "CPUExecutionProvider"]
