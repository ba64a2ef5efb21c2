"""The first GPU through CUDA's driver API, in the context that CUDA's runtime uses as well."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.tensorrt.errors import NoGpuError
from export.tensorrt.gpus import DRIVER, Loader, find_gpus

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING; the default stream cannot be captured
GLOBAL = 0  # CU_STREAM_CAPTURE_MODE_GLOBAL


class Device:
    """Memory, one stream and CUDA graphs of the first GPU."""

    def __init__(self, load: Loader = ctypes.CDLL) -> None:
        """Take the primary context.

        Raises:
            NoGpuError: There is no usable GPU; every failing method raises this.
        """
        self.gpu = find_gpus(load)[0]
        self._driver, self._owned = load(DRIVER), list[int]()
        device, context, self._stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), NON_BLOCKING)

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return self._stream.value or 0

    def used_bytes(self) -> int:
        """Memory in use, by all processes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value

    def allocate(self, size: int) -> int:
        """Address of `size` new bytes, until `release`."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._owned.append(address.value)
        return address.value

    def upload(self, items: NDArray[Any]) -> int:
        """Address of a copy, until `release`."""
        items = np.ascontiguousarray(items)
        address, size = self.allocate(items.nbytes), ctypes.c_size_t(items.nbytes)
        host = ctypes.c_void_p(items.ctypes.data)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), host, size)
        self._call("cuCtxSynchronize")  # the copy may return before the GPU has it
        return address

    def download(self, address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Copy float32 values to the host."""
        found = np.empty(shape, np.float32)
        host, size = ctypes.c_void_p(found.ctypes.data), ctypes.c_size_t(found.nbytes)
        self._call("cuMemcpyDtoH_v2", host, ctypes.c_uint64(address), size)
        return found

    def clear(self, address: int, size: int) -> None:
        """Set `size` bytes to zero."""
        self._call("cuMemsetD8_v2", ctypes.c_uint64(address), 0, ctypes.c_size_t(size))
        self._call("cuCtxSynchronize")

    def release(self) -> None:
        """Free all memory that was allocated."""
        while self._owned:
            self._call("cuMemFree_v2", ctypes.c_uint64(self._owned.pop()))

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Capture the work that `enqueue` puts on the stream; return a function that replays it."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, GLOBAL)
        try:
            enqueue()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
        return lambda: self._call("cuGraphLaunch", ready, self._stream)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            raise NoGpuError(f"CUDA's driver: {name} fails with error {code}")
