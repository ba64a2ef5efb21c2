"""A machine with an L4 for tests: TensorRT-RTX builds its plans ahead of time."""

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from export.gate.runners import RunEncoder, onnx_runner
from export.publish import staged_plans
from export.tensorrt import gpus, plan
from export.tensorrt.gpus import Gpu
from export.tensorrt.plan import build_plan

L4 = Gpu("NVIDIA L4", "8.9")


def rtx() -> ModuleType:
    importlib.import_module("tensorrt_rtx_libs")  # loads what the bindings are linked to
    return importlib.import_module("tensorrt_rtx_bindings")


class Staged:
    """Builds real plans ahead of time, and runs in their place the graphs that they are of."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.rtx, self.folder, self.plans = rtx(), folder, dict[str, bytes]()
        patch.setattr(plan, "import_tensorrt", lambda: self.rtx)
        for module in (gpus, plan):
            patch.setattr(module, "find_gpus", lambda: (L4,))
        patch.setattr(plan, "build_plan", self.build)
        patch.setattr(staged_plans, "plan_runner", self.runner)

    def build(
        self, trt: ModuleType, path: Path, shapes: Mapping[str, Any], most: int, *_: object
    ) -> bytes:
        [name] = shapes
        shutil.copy(path, self.folder / name)
        self.plans[name] = build_plan(
            trt, path, shapes, most, compute_capability=L4.compute_capability
        )
        return self.plans[name]

    def runner(self, _: ModuleType, plan: bytes, name: str, *__: object) -> RunEncoder:
        assert plan == self.plans[name]
        return onnx_runner(self.folder / name, name, fp8=True)
