"""Builds a TensorRT plan from typed ONNX, for TensorRT 10.x and 11.x and for TensorRT-RTX.

Networks are strongly typed: the ONNX file alone determines the precision (FP16 tensors, Q/DQ
nodes), without builder flags.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from export.errors import brief
from export.tensorrt.build_log import Foreign, Messages, Phases, Report, messages_of, monitor
from export.tensorrt.compatibility import flavour
from export.tensorrt.errors import (
    NoGpuError,
    NotBuiltError,
    OutOfMemoryError,
    PlanError,
    TensorRtMissingError,
)
from export.tensorrt.gpus import find_gpus
from export.tensorrt.network import Shapes, add_profile, parse
from export.tensorrt.timing_cache import TimingCache

OLDEST = 10  # major version of TensorRT
_HOW = (
    "run this in NVIDIA's Triton or TensorRT container, or install the `tensorrt` package of the "
    "version that Triton has from NVIDIA's own package index; or choose the onnxruntime runtime, "
    "which needs none"
)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of a build.

    Attributes:
        min_batch: Smallest batch.
        opt_batch: Batch that TensorRT times its kernels with.
        max_batch: Largest batch.
        workspace_bytes: Limit of GPU memory for one layer's scratch space; None is TensorRT's
            default, all memory.
        timing_cache: File with timings of earlier builds, read and updated; TensorRT-RTX
            times nothing.
        compute_capability: Build ahead of time for GPUs of this capability, such as `8.9`;
            TensorRT-RTX only. None builds for this machine's GPU.
        tf32: Allow rounding of FP32 products to TF32, which is TensorRT's default.
    """

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 64
    workspace_bytes: int | None = 4 << 30
    timing_cache: Path | None = None
    compute_capability: str | None = None
    tf32: bool = False

    def __post_init__(self) -> None:
        """Raise PlanError if the batches do not rise."""
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise PlanError(
                f"batches of {self.min_batch} at least, {self.opt_batch} at best and "
                f"{self.max_batch} at most do not rise from 1"
            )


def import_tensorrt() -> ModuleType:
    """Import the `tensorrt` module.

    Raises:
        TensorRtMissingError: It is not installed, broken or too old.
    """
    try:
        trt = importlib.import_module("tensorrt")
        version = str(trt.__version__)
    except (ImportError, OSError, AttributeError) as error:
        raise TensorRtMissingError(
            f"TensorRT's Python module cannot be imported ({brief(error)}): {_HOW}"
        ) from error
    if int(version.split(".")[0]) < OLDEST:
        raise TensorRtMissingError(f"TensorRT {version} is older than {OLDEST}.0: {_HOW}")
    return trt


def build_plan(
    trt: ModuleType,
    onnx_path: Path,
    shapes: Shapes,
    options: PlanOptions,
    progress: Report | None = None,
    gpus: Callable[[], object] = find_gpus,
) -> bytes:
    """Build a plan with one optimization profile: any batch in the range, one item shape.

    Args:
        trt: `tensorrt`, or `tensorrt_rtx_bindings`.
        onnx_path: The typed graph; its inputs are [batch, ...].
        shapes: Dimensions of one item of each input, such as `{"pixels": (224, 224, 3)}`.
        options: The options.
        progress: Called with each outer phase and its steps; an exception stops the build.
        gpus: Raises if there is no GPU.

    Raises:
        NoGpuError: The plan is for this machine's GPU, but there is none.
        UnsupportedLayerError: A node is refused; the message names it and its operator.
        OutOfMemoryError: The build needs more GPU memory.
        NotBuiltError: Any other reason, with TensorRT's message.
        PlanError: The graph's inputs or the options do not fit.
    """
    if options.compute_capability is None:
        gpus()
    messages, logger = messages_of(trt)
    messages.clear()
    phases = Phases(progress or _quiet)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # raised by the bindings if C++ returned nothing
        raise NoGpuError(f"TensorRT cannot use the GPU: {messages.why()}") from error
    network, parser = parse(trt, builder, logger, onnx_path)
    config = _config(trt, builder, options)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = monitor(trt, phases)
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    add_profile(builder, network, config, shapes, batches)
    cache = TimingCache(trt, config, options.timing_cache, phases.say)
    plan = builder.build_serialized_network(network, config)
    del parser  # it owns the weights until here
    if phases.raised is not None:
        raise phases.raised
    if plan is None:
        raise _failure(messages, onnx_path, options)
    cache.save()
    return bytes(plan)


def _quiet(phase: str, done: int, steps: int) -> None:
    """Report nothing."""


def _config(trt: ModuleType, builder: Foreign, options: PlanOptions) -> Foreign:
    config = builder.create_builder_config()
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.compute_capability is not None:
        _aim(trt, config, options.compute_capability)
    return config


def _aim(trt: ModuleType, config: Foreign, capability: str) -> None:
    if flavour(trt) != "tensorrt_rtx":
        raise PlanError(
            "TensorRT builds for the GPU it runs on; only TensorRT-RTX builds ahead of time for "
            f"compute capability {capability}"
        )
    target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
    if target is None:
        known = ", ".join(
            f"{name[2:-1]}.{name[-1]}"
            for name in sorted(dir(trt.ComputeCapability))
            if name.startswith("SM")
        )
        raise PlanError(f"compute capability {capability}: TensorRT-RTX builds for {known}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def _failure(messages: Messages, path: Path, options: PlanOptions) -> PlanError:
    if messages.out_of_memory():
        space = options.workspace_bytes
        limit = f"{space >> 20} MiB" if space is not None else "all the GPU has"
        return OutOfMemoryError(
            f"{path}: GPU memory does not suffice for batches of {options.max_batch} (workspace "
            f"limit: {limit}): {messages.why()}. Stop what else uses the GPU, lower the largest "
            "batch, or change the workspace limit"
        )
    return NotBuiltError(f"{path}: TensorRT built no plan: {messages.why()}")
