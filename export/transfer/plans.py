"""Checks the plans of a pulled TensorRT model, and builds new ones from its graphs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from export.errors import ExportError
from export.publish.leftovers import encoders_of
from export.tensorrt.compatibility import (
    PLAN,
    PLATFORM_SUFFIX,
    PlanPlatform,
    check_platform,
    platforms_here,
    read_platform,
)
from export.tensorrt.errors import NoGpuError, PlanError, TensorRtMissingError, WrongEngineError
from export.tensorrt.gpus import find_gpus, why_not_fp8
from export.tensorrt.network import Shapes
from export.tensorrt.plan import TIMING_CACHE, tensorrt_here, write_plan
from gateway.models.manifest import PIXELS, TOKEN_IDS, Manifest, file_sha256

GRAPH = "model.onnx"
PULL_THERE = "pull it on the machine that serves it, in the image export-gpu, which builds plans"
BUILT = (PLAN, PLAN + PLATFORM_SUFFIX)  # files that differ from machine to machine


def same_model(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests differ only in the plans built from the same graphs."""
    return _without_plans(one) == _without_plans(other)


def _without_plans(manifest: Manifest) -> Manifest:
    files = {k: v for k, v in manifest.files.items() if Path(k).name not in BUILT}
    return manifest.model_copy(update={"files": files})


def outdated(root: Path, manifest: Manifest) -> bool:
    """Whether a published model has plans for another TensorRT or GPU, or none that say for which.

    False where this machine has no GPU: the one that serves may have it.
    """
    try:
        _check(root, manifest)
    except (NoGpuError, TensorRtMissingError):
        return False
    except PlanError:
        return True
    return False


@dataclass(frozen=True, slots=True)
class PlanBuilder:
    """Builds the plans of a model with the TensorRT of this machine."""

    trt: ModuleType
    platform: PlanPlatform

    def build(
        self, staged: Path, manifest: Manifest, root: Path, report: Callable[[str], None]
    ) -> Manifest:
        """Build the plan of each encoder from the graph in its folder.

        Returns:
            The manifest with the hashes of the new plans.

        Raises:
            PlanError: A plan cannot be built; see `plan.build_plan`.
        """
        files = dict(manifest.files)
        for encoder, shapes in _shapes(manifest).items():
            folder = f"{encoder}/{manifest.version}"
            report(f"{folder}/{PLAN}: building for {self.platform}")
            graph, most = staged / folder / GRAPH, encoders_of(manifest)[encoder]
            for name in BUILT:  # it may be a hard link shared with another encoder
                (staged / folder / name).unlink(missing_ok=True)
            write_plan(self.trt, self.platform, graph, shapes, most, root / TIMING_CACHE)
            files |= {f"{folder}/{name}": file_sha256(staged / folder / name) for name in BUILT}
        return manifest.model_copy(update={"files": files})


def builder_for(staged: Path, manifest: Manifest, where: str) -> PlanBuilder | None:
    """The builder for the plans of a model, or None if its own plans run here.

    `staged` has the platforms of its plans, if the place `where` has them.

    Raises:
        PlanError: The plans neither run here nor can be built here; the message names both
        platforms and a remedy.
    """
    try:
        _check(staged, manifest)
    except (NoGpuError, TensorRtMissingError) as error:
        raise type(error)(f"{where}: {error}; {PULL_THERE}") from error
    except PlanError as error:
        try:
            return _builder(manifest)
        except ExportError as why:
            raise type(error)(
                f"{where}: {error}, and no plan that runs here can be built: {why}"
            ) from why
    return None


def _check(root: Path, manifest: Manifest) -> None:
    """Raise PlanError unless the plans of a model run on this machine."""
    for encoder in encoders_of(manifest) if manifest.runtime == "tensorrt" else ():
        path = f"{encoder}/{manifest.version}/{PLAN}"
        built = read_platform(root / path)
        try:
            here = platforms_here()
        except PlanError as error:
            raise type(error)(f"{path}: built for {built}, but {error}") from error
        for each in here:
            try:
                check_platform(built, each)
            except WrongEngineError as error:
                raise WrongEngineError(f"{path}: {error}") from error


def _builder(manifest: Manifest) -> PlanBuilder:
    for encoder in encoders_of(manifest):
        if f"{encoder}/{manifest.version}/{GRAPH}" not in manifest.files:
            raise PlanError(
                "the place has no graphs, which exports before 0.2.0 did not keep; export the "
                "model again"
            )
    trt, platform = tensorrt_here()
    for here in platforms_here():
        check_platform(platform, here)
    why = why_not_fp8(find_gpus()[0]) if manifest.precision == "fp8" else None
    if why:
        raise PlanError(why)
    return PlanBuilder(trt, platform)


def _shapes(manifest: Manifest) -> Mapping[str, Shapes]:
    """The shape of an item of each encoder."""
    size = manifest.preprocessing.image_size
    texts = {text.name: {TOKEN_IDS: (text.length,)} for text in manifest.triton.text}
    return {manifest.triton.image.name: {PIXELS: (size, size, 3)}, **texts}
