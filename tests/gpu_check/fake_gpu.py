"""A GPU whose memory is this process's, and a TensorRT that runs on it."""

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.export.fake_tensorrt import FakeTensorRt

STREAM = 7


def encoded(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The vectors of pictures, uint8 [n, 8, 8, 3] -> float32 [n, 3]."""
    means = pixels.reshape(len(pixels), -1, 3).mean(axis=1)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


class Driver:
    """libcuda.so.1; what is put on the stream while it is captured is only kept."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.capturing, self.fails = False, ""
        self.capability = (8, 9)
        self.graph: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            getattr(self, f"_{name}", lambda *_: None)(*arguments)
            return int(name == self.fails)

        return call

    def put(self, work: Callable[[], None]) -> None:
        if self.capturing:
            self.graph.append(work)
        else:
            work()

    def _cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802 (NVIDIA's names)
        count._obj.value = 1

    def _cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> None:  # noqa: N802
        value._obj.value = self.capability[which - 75]

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:  # noqa: N802
        assert flags == 1  # the default stream waits for others, and cannot be captured
        stream._obj.value = STREAM

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:  # noqa: N802
        used = sum(ctypes.sizeof(each) for each in self.memory.values())
        free._obj.value, total._obj.value = 10**9 - used, 10**9

    def _cuMemAlloc_v2(self, address: Any, size: Any) -> None:  # noqa: N802
        made = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(made)
        self.memory[address._obj.value] = made

    def _cuMemFree_v2(self, address: Any) -> None:  # noqa: N802
        del self.memory[address.value]

    def _cuMemsetD8_v2(self, address: Any, value: int, size: Any) -> None:  # noqa: N802
        ctypes.memset(self.memory[address.value], value, size.value)

    def _cuMemcpyHtoD_v2(self, to: Any, host: Any, size: Any) -> None:  # noqa: N802
        ctypes.memmove(self.memory[to.value], host.value, size.value)

    def _cuMemcpyDtoH_v2(self, host: Any, start: Any, size: Any) -> None:  # noqa: N802
        ctypes.memmove(host.value, self.memory[start.value], size.value)

    def _cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> None:  # noqa: N802
        assert (stream.value, mode) == (STREAM, 0)
        self.capturing, self.graph = True, []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> None:  # noqa: N802
        self.capturing, graph._obj.value = False, 1

    def _cuGraphLaunch(self, ready: Any, stream: Any) -> None:  # noqa: N802
        for work in self.graph:
            work()


class Context:
    """An execution context of a plan from `pixels` to `image_features`."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.works = driver, True
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "pixels"
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        given, found = (self.addresses[name] for name in ("pixels", "image_features"))
        shape = self.shape  # a graph keeps the shape and the addresses

        def work() -> None:
            pixels = np.frombuffer(self.driver.memory[given], np.uint8).reshape(shape)
            ctypes.memmove(self.driver.memory[found], encoded(pixels).tobytes(), 12 * len(pixels))

        self.driver.put(work)
        return self.works


def tensorrt(context: Context) -> FakeTensorRt:
    """A `tensorrt` module that builds and runs."""
    made: Any = FakeTensorRt(11)
    engine = SimpleNamespace(create_execution_context=lambda: context)
    made.Runtime = lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: engine)
    found: FakeTensorRt = made
    return found
