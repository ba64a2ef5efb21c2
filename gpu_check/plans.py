"""Builds TensorRT plans of a model's typed graphs with export's builder, and measures them."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from benchmarks.reporting.results import Row
from benchmarks.systems.published import Manifest
from export.tensorrt.build_log import messages_of
from export.tensorrt.errors import PlanError
from export.tensorrt.gpus import why_not_fp8
from export.tensorrt.plan import build_plan
from gateway.models.manifest import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKEN_IDS
from gpu_check.cuda import Device
from gpu_check.engines import MB, PARITY_BATCH, Bound, EngineError, Measure
from gpu_check.lines import FAIL, NOT_HERE, PASS, line
from gpu_check.models import Inputs, typed

PRECISIONS = ("fp16", "int8", "fp8")
NO_GRAPHS = "no typed graphs; write them with make gpu-inputs on the machine that exports the model"
TENSORS = {"image": (PIXELS, IMAGE_FEATURES), "text": (TOKEN_IDS, TEXT_FEATURES)}


def lines(
    manifest: Manifest,
    inputs: Inputs,
    measure: Measure,
    trt: ModuleType,
    device: Device,
    timing_cache: Path,
) -> Iterator[Row]:
    """Build a plan for each precision and encoder, and measure it."""
    title = f"TensorRT {trt.__version__}"
    most = max(*measure.batches, PARITY_BATCH)
    for precision in PRECISIONS:
        encoders = list(typed(manifest, inputs, precision))
        why = None if encoders else NO_GRAPHS
        if encoders and precision == "fp8":
            why = why_not_fp8(device.gpu)
        if why:
            labels = {"model": manifest["id"], "precision": precision}
            yield line(measure.part, labels, NOT_HERE, why)
            continue
        for encoder in encoders:
            name, output = TENSORS[str(encoder.labels["encoder"])]
            start = time.perf_counter()
            try:
                shapes = {name: encoder.items.shape[1:]}
                plan = build_plan(
                    trt, encoder.path, shapes, most, timing_cache, gpus=lambda: device
                )
            except PlanError as error:
                yield line(measure.part, {**encoder.labels, "engine": "build"}, FAIL, error)
                continue
            figures = {"build_s": time.perf_counter() - start, "plan_mb": len(plan) / MB}
            yield line(measure.part, {**encoder.labels, "engine": "build"}, PASS, **figures)
            make = partial(PlanEngine, trt, device, plan, (name, output), encoder.truth.shape[1])
            yield from measure.lines(title, encoder, make)


class PlanEngine:
    """A plan on the first GPU; see `engines.Engine`."""

    def __init__(
        self, trt: ModuleType, device: Device, plan: bytes, names: tuple[str, str], size: int
    ) -> None:
        """Load a plan with these names of its input and output, and this length of its vectors.

        Raises:
            EngineError: TensorRT refuses it.
        """
        self._messages, logger = messages_of(trt)
        self._device, self._names, self._size = device, names, size
        self._runtime = trt.Runtime(logger)  # which must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"TensorRT refuses the plan: {self._messages.why()}")
        self._context = self._engine.create_execution_context()

    def bind(self, items: NDArray[Any], *, graph: bool) -> Bound:
        """See `engines.Engine`."""
        self._device.release()
        given = self._device.upload(items)
        shape = (len(items), self._size)
        size = 4 * len(items) * self._size
        found = self._device.allocate(size)
        taken = self._context.set_input_shape(self._names[0], items.shape)
        for name, address in zip(self._names, (given, found), strict=True):
            taken = taken and self._context.set_tensor_address(name, address)
        if not taken:
            raise EngineError(f"TensorRT does not take a batch of {items.shape}")
        self._enqueue()  # once after a change of shapes, before the work can be captured
        self._device.synchronize()
        enqueue = self._device.capture(self._enqueue) if graph else self._enqueue
        self._device.clear(found, size)  # the result is read from a later run

        def run() -> None:
            enqueue()
            self._device.synchronize()

        return run, lambda: self._device.download(found, shape)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise EngineError(f"TensorRT does not run the plan: {self._messages.why()}")
