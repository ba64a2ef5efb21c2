"""Finds the GPUs and the TensorRT library of this machine, without Python bindings."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from export.errors import brief
from export.tensorrt.errors import NoGpuError, TensorRtMissingError

LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")

Foreign = Any  # a library known at run time only
Loader = Callable[[str], Foreign]  # ctypes.CDLL or a fake

DRIVER = "libcuda.so.1"
FP8 = (8, 9)  # the least compute capability, of Ada
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as NVIDIA's driver names it."""

    name: str  # such as NVIDIA L4
    compute_capability: str  # such as 8.9


def find_gpus(load: Loader = ctypes.CDLL) -> tuple[Gpu, ...]:
    """List the GPUs that this process may use, through the CUDA driver API.

    Raises:
        NoGpuError: There is no GPU, or no driver.
    """
    try:
        driver = load(DRIVER)
    except OSError as error:
        raise NoGpuError(
            f"no NVIDIA driver on this machine ({brief(error)}); a plan is built on, and for, the "
            "GPU that will run it. In Docker, start the container with --gpus all"
        ) from error
    count = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        raise NoGpuError(
            f"NVIDIA's driver finds no GPU that it can use (CUDA error {code}); see nvidia-smi "
            "and CUDA_VISIBLE_DEVICES"
        )
    return tuple(_gpu(driver, ordinal) for ordinal in range(count.value))


def why_not_fp8(gpu: Gpu) -> str | None:
    """Why a GPU cannot multiply FP8, or None if it can."""
    if tuple(map(int, gpu.compute_capability.split("."))) >= FP8:
        return None
    return (
        f"FP8 needs a GPU of compute capability {FP8[0]}.{FP8[1]} or later; {gpu.name} has "
        f"{gpu.compute_capability}"
    )


def _gpu(driver: Foreign, ordinal: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    parts = (ctypes.c_int(), ctypes.c_int())
    code = driver.cuDeviceGet(ctypes.byref(device), ordinal)
    code = code or driver.cuDeviceGetName(name, len(name), device)
    for part, attribute in zip(parts, (_CAPABILITY_MAJOR, _CAPABILITY_MINOR), strict=True):
        code = code or driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
    if code:
        raise NoGpuError(f"NVIDIA's driver cannot describe GPU {ordinal} (CUDA error {code})")
    return Gpu(name.value.decode(), f"{parts[0].value}.{parts[1].value}")


def library_version(load: Loader = ctypes.CDLL) -> str:
    """Version of the TensorRT library that Triton loads.

    Raises:
        TensorRtMissingError: There is none.
    """
    for name in LIBRARIES:
        try:
            library = load(name)
        except OSError:
            continue
        parts = ("Major", "Minor", "Patch", "Build")
        return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in parts)
    raise TensorRtMissingError(
        f"no TensorRT library here ({', '.join(LIBRARIES)}); run this where tritonserver runs"
    )
