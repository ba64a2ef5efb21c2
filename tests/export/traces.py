"""torch's exporter, once for each encoder: its graphs are kept for later tests, processes and runs.

The key covers all that determines a graph: the versions of the libraries, our sources, the module
with its weights, and the shapes of the arguments, whose values a trace does not see. A module that
cannot be pickled is exported each time.
"""

import fcntl
import functools
import hashlib
import importlib.metadata
import inspect
import io
import pickle
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import torch
from open_clip.transformer import MultimodalTransformer
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from tests.conftest import ROOT

LIBRARIES = (
    "torch", "open_clip_torch", "timm", "transformers", "onnx", "onnxscript", "onnx-ir", "numpy",
)  # fmt: skip
LARGEST = 100_000_000  # bytes of weights; larger graphs would fill the disk
KEPT_S = 7 * 24 * 3600.0  # since the last use


class Traces:
    """Replaces `torch.onnx.export`; processes that need one graph at a time make it once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._export = folder, torch.onnx.export
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - KEPT_S:
                path.unlink(missing_ok=True)

    def export(
        self, module: nn.Module, arguments: tuple[Any, ...], *rest: Any, **options: Any
    ) -> Any:
        tensors = (*module.parameters(), *module.buffers())
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        kept = options["dynamo"] and size <= LARGEST
        content = _content(module) if kept else b""
        if not content:
            return self._export(module, arguments, *rest, **options)
        shapes = [(each.dtype, each.shape, each.stride()) for each in arguments]
        call = repr((shapes, sorted(options.items()))).encode()
        key = hashlib.sha256(_code(module) + call + content)
        path = self._folder / f"{key.hexdigest()}.onnx"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                program = self._export(module, arguments, **options)
                assert program is not None
                part = path.with_suffix(".part")
                onnx.save_model(program.model_proto, part, format="protobuf")
                part.rename(path)
            path.touch()
            return SimpleNamespace(model_proto=onnx.load(path))


class _Pickler(pickle.Pickler):
    """Writes tensors by value, since torch's own pickles hold addresses, and no paths."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, PreTrainedConfig | PreTrainedModel):
            content = {k: v for k, v in vars(value).items() if not k.endswith("name_or_path")}
            return dict, (content | {"class": type(value).__name__},)
        if isinstance(value, MultimodalTransformer):
            return dict, ()  # no encoder runs it, and OpenCLIP does not initialise its weights
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        kind = f"{value.dtype} {tuple(value.shape)} {value.requires_grad}"
        return bytes, (kind.encode() + value.detach().numpy().tobytes(),)


def _content(module: nn.Module) -> bytes:
    """All attributes of a module, or nothing if it cannot be pickled."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.fast = True  # equal objects in place of one object make no difference
    try:
        pickler.dump(module)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return b""
    return stream.getvalue()


def _code(module: nn.Module) -> bytes:
    """Hash of the code that a trace of this module runs."""
    ours = {Path(inspect.getfile(type(part))) for part in module.modules()}
    return _libraries() + _sources(frozenset(path for path in ours if path.is_relative_to(ROOT)))


@functools.cache
def _libraries() -> bytes:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return hashlib.sha256("\n".join((sys.version, *versions)).encode()).digest()


@functools.cache
def _sources(others: frozenset[Path]) -> bytes:
    folders = (ROOT / "export" / "source", ROOT / "gateway" / "models")
    paths = {*others, *(path for folder in folders for path in folder.rglob("*.py"))}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).digest()
