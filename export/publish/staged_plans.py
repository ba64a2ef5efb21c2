"""Builds TensorRT plans next to staged ONNX encoders, and runs them on this machine's GPU."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import GateError
from export.gate.runners import RunEncoder
from export.publish.staging import Stage
from export.tensorrt.build_log import messages_of
from export.tensorrt.plan import TIMING_CACHE, tensorrt_here, write_plan
from gateway.models.manifest import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKEN_IDS


def build_plans(
    stage: Stage, image: Path, texts: Mapping[int, Path]
) -> tuple[RunEncoder, dict[int, RunEncoder]]:
    """Build a plan of each encoder for the first GPU of this machine.

    The ONNX file stays next to it: `pull` builds a plan from it on other machines.

    Raises:
        ExportError: No TensorRT, no GPU, or a plan cannot be built; see `plan.build_plan`.
    """
    trt, platform = tensorrt_here()
    cache = stage.folder.parent / TIMING_CACHE

    def planned(path: Path, name: str, item: tuple[int, ...], output: str) -> RunEncoder:
        plan = write_plan(trt, platform, path, {name: item}, stage.serving.max_batch, cache)
        return plan_runner(trt, plan, name, output, stage.embedding_size)

    size = stage.image_size
    run_image = planned(image, PIXELS, (size, size, 3), IMAGE_FEATURES)
    run_texts = {
        length: planned(path, TOKEN_IDS, (length,), TEXT_FEATURES) for length, path in texts.items()
    }
    return run_image, run_texts


def plan_runner(
    trt: ModuleType, plan: bytes, name: str, output: str, embedding_size: int
) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Make a function that runs a plan on the current CUDA device, in PyTorch's memory.

    Raises:
        GateError: TensorRT refuses the plan or, later, fails to run it.
    """
    messages, logger = messages_of(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise GateError(f"TensorRT refuses the plan that it has just built: {messages.why()}")
    context = engine.create_execution_context()

    def run(batch: NDArray[Any]) -> NDArray[np.float32]:
        given = torch.from_numpy(np.ascontiguousarray(batch)).cuda()
        found = torch.empty((len(batch), embedding_size), dtype=torch.float32, device="cuda")
        context.set_input_shape(name, tuple(given.shape))
        context.set_tensor_address(name, given.data_ptr())
        context.set_tensor_address(output, found.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise GateError(f"TensorRT does not run the plan at shape {batch.shape}")
        stream.synchronize()
        return np.asarray(found.cpu().numpy())

    return run
