"""Records the platform of a TensorRT plan, and checks whether the plan can run on this machine.

Uses only the standard library, so that it runs in NVIDIA's Triton container.
"""

import ctypes
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from export.errors import brief
from export.tensorrt.errors import PlanError, WrongEngineError
from export.tensorrt.gpus import Gpu, Loader, find_gpus, library_version

PLAN = "model.plan"
PLATFORM_SUFFIX = ".json"
REBUILD = "pull or export the model again on this machine, with the TensorRT that Triton has here"

Flavour = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True, slots=True)
class PlanPlatform:
    """TensorRT version and GPU, of a plan or of this machine.

    NVIDIA's rule: without compatibility modes, which cost speed, a plan runs only under the
    TensorRT version that built it, on GPUs of the same compute capability; and a plan timed on one
    model of GPU "may cause errors" on another.
    """

    flavour: Flavour
    version: str  # such as 10.13.3.9
    compute_capability: str  # such as 8.9
    gpu: str | None  # None: built ahead of time for any GPU of that capability

    def __str__(self) -> str:
        """For messages."""
        kind = "TensorRT-RTX" if self.flavour == "tensorrt_rtx" else "TensorRT"
        gpu = self.gpu or "any GPU"
        return f"{kind} {self.version} on {gpu} (compute capability {self.compute_capability})"


def flavour(trt: ModuleType) -> Flavour:
    """The product of NVIDIA that a TensorRT module belongs to."""
    return "tensorrt_rtx" if trt.__name__.startswith("tensorrt_rtx") else "tensorrt"


def platform_of(trt: ModuleType, target: Gpu | str) -> PlanPlatform:
    """Platform of a plan that a TensorRT module builds for a GPU or (RTX) a compute capability."""
    version = ".".join(trt.__version__.split(".")[:4])  # a wheel may add ".post1"
    if isinstance(target, str):
        return PlanPlatform(flavour(trt), version, target, None)
    return PlanPlatform(flavour(trt), version, target.compute_capability, target.name)


def platforms_here(load: Loader = ctypes.CDLL) -> tuple[PlanPlatform, ...]:
    """Platforms of this machine, one for each GPU.

    Raises:
        NoGpuError: There is no GPU.
        TensorRtMissingError: There is no TensorRT.
    """
    version = library_version(load)
    return tuple(
        PlanPlatform("tensorrt", version, gpu.compute_capability, gpu.name)
        for gpu in find_gpus(load)
    )


def write_platform(plan: Path, platform: PlanPlatform) -> Path:
    """Write `<plan>.json` next to a plan; return its path."""
    path = plan.with_name(plan.name + PLATFORM_SUFFIX)
    path.write_text(json.dumps(dataclasses.asdict(platform), indent=2) + "\n")
    return path


def read_platform(plan: Path) -> PlanPlatform:
    """Read the platform of a plan.

    Raises:
        PlanError: It is missing or damaged.
    """
    path = plan.with_name(plan.name + PLATFORM_SUFFIX)
    try:
        return PlanPlatform(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise PlanError(
            f"{path}: cannot tell which TensorRT and GPU its plan is for ({brief(error)})"
        ) from error


def check_platform(built: PlanPlatform, here: PlanPlatform) -> None:
    """Check that a plan can run on this machine.

    Raises:
        WrongEngineError: It cannot; the message names both platforms.
    """
    if built != (here if built.gpu else dataclasses.replace(here, gpu=None)):
        raise WrongEngineError(f"built for {built}, but here is {here}")


def find_plans(root: Path) -> list[Path]:
    """List the plans of a Triton model repository, `<model>/<version>/model.plan`."""
    plans = root.glob(f"*/[0-9]*/{PLAN}")
    return sorted(path for path in plans if not path.parent.parent.name.startswith("."))


def check_repository(root: Path, here: Sequence[PlanPlatform]) -> list[str]:
    """Check all plans of a model repository before Triton loads them.

    Triton refuses a foreign plan too, but reports only that it cannot deserialize the engine. A
    plan must fit each platform `here`, since by default Triton puts an instance on every GPU.

    Returns:
        One line for each plan that cannot run.
    """
    problems = []
    for plan in find_plans(root):
        try:
            built = read_platform(plan)
            for platform in here:
                check_platform(built, platform)
        except WrongEngineError as error:
            problems.append(f"{plan}: {error}; {REBUILD}")
        except PlanError as error:
            problems.append(f"{error}; {REBUILD}")
    return problems


def check_engines(root: Path, load: Loader = ctypes.CDLL) -> list[str]:
    """Run `check_repository` for this machine; it needs a GPU only if there are plans.

    Raises:
        PlanError: There is no such folder.
        NoGpuError: There are plans, and no GPU.
        TensorRtMissingError: There are plans, and no TensorRT.
    """
    if not root.is_dir():
        raise PlanError(f"{root}: no such model repository")
    return check_repository(root, platforms_here(load)) if find_plans(root) else []
