"""Builds a TensorRT plan from typed ONNX, for TensorRT 10.x and 11.x and for TensorRT-RTX.

Networks are strongly typed: the ONNX file alone determines the precision (FP16 tensors, Q/DQ
nodes), without builder flags.
"""

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from export.errors import brief
from export.tensorrt.build_log import Foreign, Messages, messages_of
from export.tensorrt.compatibility import PLAN, PlanPlatform, flavour, platform_of, write_platform
from export.tensorrt.errors import NoGpuError, PlanError, TensorRtMissingError
from export.tensorrt.gpus import find_gpus
from export.tensorrt.network import Shapes, add_profile, parse

OLDEST = 10  # major version of TensorRT
OPT_BATCH = 8  # items that TensorRT times its kernels with
TIMING_CACHE = ".tensorrt-timing-cache"  # at a model repository's root
WORKSPACE_BYTES = 4 << 30  # of GPU memory, for one layer's scratch space
_HOW = (
    "run this in NVIDIA's Triton or TensorRT container, or install the `tensorrt` package of the "
    "version that Triton has from NVIDIA's own package index; or choose the onnxruntime runtime, "
    "which needs none"
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


def tensorrt_here() -> tuple[ModuleType, PlanPlatform]:
    """TensorRT's module, and the platform of the plans that it builds for this machine's first GPU.

    Raises:
        TensorRtMissingError: There is no TensorRT to build with.
        NoGpuError: There is no GPU.
    """
    trt = import_tensorrt()
    return trt, platform_of(trt, find_gpus()[0])


def write_plan(
    trt: ModuleType,
    platform: PlanPlatform,
    graph: Path,
    shapes: Shapes,
    max_batch: int,
    timing_cache: Path,
) -> bytes:
    """Build the plan of a graph, and write it with its platform into the graph's folder.

    A platform without a GPU is built for ahead of time; for the rest, see `build_plan`.
    """
    ahead = platform.compute_capability if platform.gpu is None else None
    plan = build_plan(trt, graph, shapes, max_batch, timing_cache, ahead)
    written = graph.with_name(PLAN)
    written.write_bytes(plan)
    write_platform(written, platform)
    return plan


def build_plan(
    trt: ModuleType,
    onnx_path: Path,
    shapes: Shapes,
    max_batch: int,
    timing_cache: Path | None = None,
    compute_capability: str | None = None,
    gpus: Callable[[], object] = find_gpus,
) -> bytes:
    """Build a plan with one optimization profile: any batch up to the largest, one item shape.

    Args:
        trt: `tensorrt`, or `tensorrt_rtx_bindings`.
        onnx_path: The typed graph; its inputs are [batch, ...].
        shapes: Dimensions of one item of each input, such as `{"pixels": (224, 224, 3)}`.
        max_batch: Largest batch.
        timing_cache: File with timings of earlier builds, read and updated; TensorRT-RTX
            times nothing.
        compute_capability: Build ahead of time for GPUs of this capability, such as `8.9`;
            TensorRT-RTX only. None builds for this machine's GPU.
        gpus: Raises if there is no GPU.

    Raises:
        NoGpuError: The plan is for this machine's GPU, but there is none.
        PlanError: A node is refused, which the message names; or the build fails for another
            reason, with TensorRT's message; or inputs do not fit.
    """
    if compute_capability is None:
        gpus()
    messages, logger = messages_of(trt)
    messages.clear()
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # raised by the bindings if C++ returned nothing
        raise NoGpuError(f"TensorRT cannot use the GPU: {messages.why()}") from error
    network, parser = parse(trt, builder, logger, onnx_path)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # which would round FP32 products
    if compute_capability is not None:
        _aim(trt, config, compute_capability)
    add_profile(builder, network, config, shapes, (1, min(OPT_BATCH, max_batch), max_batch))
    cached = None if flavour(trt) == "tensorrt_rtx" else timing_cache
    if cached:
        _read_timings(config, cached)
    plan = builder.build_serialized_network(network, config)
    del parser  # it owns the weights until here
    if plan is None:
        raise _failure(messages, onnx_path, max_batch)
    if cached:
        with contextlib.suppress(OSError):  # the plan is valid without it
            _write_timings(config, cached)
    return bytes(plan)


def _read_timings(config: Foreign, path: Path) -> None:
    """Load the timings of earlier builds; ignore those of another TensorRT or GPU."""
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write_timings(config: Foreign, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(bytes(config.get_timing_cache().serialize()))
    part.replace(path)


def _aim(trt: ModuleType, config: Foreign, capability: str) -> None:
    if flavour(trt) != "tensorrt_rtx":
        raise PlanError(
            "TensorRT builds for the GPU it runs on; only TensorRT-RTX builds ahead of time for "
            f"compute capability {capability}"
        )
    config.num_compute_capabilities = 1
    target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
    config.set_compute_capability(target, 0)


def _failure(messages: Messages, path: Path, max_batch: int) -> PlanError:
    if messages.out_of_memory():
        return PlanError(
            f"{path}: GPU memory does not suffice for batches of {max_batch} (workspace limit: "
            f"{WORKSPACE_BYTES >> 20} MiB): {messages.why()}. Stop what else uses the GPU, or "
            "lower the largest batch"
        )
    return PlanError(f"{path}: TensorRT built no plan: {messages.why()}")
