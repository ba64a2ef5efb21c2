"""What a plan was built for, and its check before Triton starts."""

import ctypes
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.tensorrt.compatibility import (
    PlanPlatform,
    check_engines,
    check_platform,
    check_repository,
    platform_of,
    platforms_here,
    read_platform,
    write_platform,
)
from export.tensorrt.errors import NoGpuError, PlanError, TensorRtMissingError, WrongEngineError
from export.tensorrt.gpus import Gpu, find_gpus, library_version
from tests.conftest import ROOT
from tests.export.fake_tensorrt import FakeTensorRt

L4 = Gpu("NVIDIA L4", "8.9")
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", "8.9")
BUILT = PlanPlatform("tensorrt", "10.13.3.9", "8.9", "NVIDIA L4")


class Driver:
    """libcuda.so.1 on a machine with these GPUs."""

    def __init__(self, *gpus: Gpu, code: int = 0) -> None:
        self.gpus, self.code = gpus, code

    def cuInit(self, _: int) -> int:  # noqa: N802 -- NVIDIA's names
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        assert size == 256
        name.value = self.gpus[device.value].name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: int, device: ctypes.c_int) -> int:  # noqa: N802
        parts = self.gpus[device.value].compute_capability.split(".")
        value._obj.value = int(parts[which - 75])
        return 0


def infer_library(version: str) -> SimpleNamespace:
    names = ("Major", "Minor", "Patch", "Build")
    parts = zip(names, version.split("."), strict=True)
    return SimpleNamespace(
        **{f"getInferLib{name}Version": lambda part=part: int(part) for name, part in parts}
    )


def machine(**libraries: object) -> Callable[[str], object]:
    """A loader that knows these libraries only, with `_` for what a name cannot hold."""

    def load(name: str) -> object:
        stem = name.removeprefix("lib").replace(".so.", "_")
        if stem not in libraries:
            raise OSError(f"{name}: cannot open shared object file")
        return libraries[stem]

    return load


def test_gpus_are_read_from_the_driver() -> None:
    assert find_gpus(machine(cuda_1=Driver(L4, RTX_4090))) == (L4, RTX_4090)


def test_no_driver() -> None:
    with pytest.raises(NoGpuError, match=r"no NVIDIA driver .*libcuda.*--gpus all"):
        find_gpus(machine())


@pytest.mark.parametrize("driver", [Driver(), Driver(L4, code=100)])
def test_driver_without_gpu(driver: Driver) -> None:
    with pytest.raises(NoGpuError, match="finds no GPU"):
        find_gpus(machine(cuda_1=driver))


def test_library_version_of_what_triton_would_load() -> None:
    assert library_version(machine(nvinfer_10=infer_library("10.13.3.9"))) == "10.13.3.9"
    both = machine(nvinfer_10=infer_library("10.13.3.9"), nvinfer_11=infer_library("11.1.0.7"))
    assert library_version(both) == "11.1.0.7"


def test_no_library() -> None:
    with pytest.raises(TensorRtMissingError, match=r"libnvinfer\.so\.10.*tritonserver"):
        library_version(machine(cuda_1=Driver(L4)))


def test_here_is_one_identity_for_each_gpu() -> None:
    load = machine(nvinfer_10=infer_library("10.13.3.9"), cuda_1=Driver(L4, RTX_4090))
    here = platforms_here(load)
    assert here == (BUILT, dataclasses.replace(BUILT, gpu=RTX_4090.name))


def test_a_plan_built_by_the_module_fits_the_library_of_the_same_version() -> None:
    here = platforms_here(machine(nvinfer_10=infer_library("10.13.3.9"), cuda_1=Driver(L4)))
    check_platform(platform_of(FakeTensorRt(), L4), here[0])


def test_identity_survives_its_file(tmp_path: Path) -> None:
    path = write_platform(tmp_path / "model.plan", BUILT)
    assert path == tmp_path / "model.plan.json"
    assert read_platform(tmp_path / "model.plan") == BUILT


@pytest.mark.parametrize(
    "change",
    [
        {"version": "10.14.1.48"},
        {"compute_capability": "9.0", "gpu": "NVIDIA H200"},
        {"gpu": RTX_4090.name},
        {"flavour": "tensorrt_rtx"},
    ],
)
def test_foreign_plan_is_refused_and_both_are_named(change: dict[str, Any]) -> None:
    here = dataclasses.replace(BUILT, **change)
    with pytest.raises(WrongEngineError) as refusal:
        check_platform(BUILT, here)
    assert str(BUILT) in str(refusal.value)
    assert str(here) in str(refusal.value)


def test_plan_built_ahead_of_time_fits_any_gpu_of_its_capability() -> None:
    ahead = dataclasses.replace(BUILT, gpu=None)
    check_platform(ahead, BUILT)
    check_platform(ahead, dataclasses.replace(BUILT, gpu=RTX_4090.name))
    with pytest.raises(WrongEngineError):
        check_platform(ahead, dataclasses.replace(BUILT, compute_capability="9.0"))


def plan(root: Path, encoder: str, platform: PlanPlatform | None) -> Path:
    path = root / encoder / "1" / "model.plan"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"plan")
    if platform is not None:
        write_platform(path, platform)
    return path


def test_repository_with_plans_for_here(tmp_path: Path) -> None:
    plan(tmp_path, "m.image", BUILT)
    (tmp_path / "n.image" / "1").mkdir(parents=True)
    (tmp_path / "n.image" / "1" / "model.onnx").touch()
    plan(tmp_path, ".staging-x/m.image", None)
    assert check_repository(tmp_path, [BUILT]) == []


def test_every_plan_that_cannot_run_is_told(tmp_path: Path) -> None:
    other = dataclasses.replace(BUILT, version="10.14.1.48")
    foreign = plan(tmp_path, "m.image", other)
    unknown = plan(tmp_path, "m.text-16", None)
    damaged = plan(tmp_path, "m.text-77", BUILT)
    damaged.with_name("model.plan.json").write_text(json.dumps({"version": "10"}))
    plan(tmp_path, "good.image", BUILT)
    told = check_repository(tmp_path, [BUILT])
    assert len(told) == 3
    for line, path in zip(told, (foreign, unknown, damaged), strict=True):
        assert line.startswith(str(path))
        assert "pull or export the model again on this machine" in line
    assert str(other) in told[0]


def test_a_plan_must_fit_every_gpu(tmp_path: Path) -> None:
    plan(tmp_path, "m.image", BUILT)
    here = [BUILT, dataclasses.replace(BUILT, gpu="NVIDIA T4", compute_capability="7.5")]
    assert "NVIDIA T4" in check_repository(tmp_path, here)[0]


def test_unreadable_identity_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"model\.plan\.json"):
        read_platform(tmp_path / "model.plan")


def test_a_repository_without_plans_needs_no_gpu(tmp_path: Path) -> None:
    assert check_engines(tmp_path, machine()) == []
    plan(tmp_path, "m.image", BUILT)
    load = machine(nvinfer_10=infer_library("10.13.3.9"), cuda_1=Driver(L4))
    assert check_engines(tmp_path, load) == []
    with pytest.raises(TensorRtMissingError):
        check_engines(tmp_path, machine())


def test_a_repository_that_is_not_there_is_no_repository_without_plans(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such model repository"):
        check_engines(tmp_path / "nothing", machine())


def test_the_check_needs_the_standard_library_alone() -> None:
    """NVIDIA's Triton container has Python, and none of this project's packages."""
    code = (
        "import export.tensorrt.compatibility, sys;"
        "print([n for n in ('numpy', 'onnx') if n in sys.modules])"
    )
    bare = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}",
    ]
    done = subprocess.run(bare, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
