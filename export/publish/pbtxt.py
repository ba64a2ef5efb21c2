"""Writes `config.pbtxt` of an encoder, through Triton's own protobuf messages."""

from dataclasses import dataclass
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as config

from export.errors import ExportError
from export.precision.variants import Runtime
from gateway.models.manifest import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKEN_IDS

QUEUE_DELAY_MICROSECONDS = 500
ANY_LENGTH = -1  # in Triton's dims

# Batches that TensorRT runs as CUDA graphs, besides the largest: without a graph, a small batch
# waits for the CPU to launch its many kernels.
GRAPH_BATCHES = (1, 2, 4, 8, 16, 32)
FILLED_UP = 8  # items: a batch up to this size uses the next larger graph
PREFERRED = 8  # items: Triton does not wait for smaller batches

Device = Literal["auto", "cpu", "gpu"]
MODEL_FILES: dict[Runtime, str] = {
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "tensorrt": "model.plan",
}
_KINDS = {
    "auto": config.ModelInstanceGroup.KIND_AUTO,
    "cpu": config.ModelInstanceGroup.KIND_CPU,
    "gpu": config.ModelInstanceGroup.KIND_GPU,
}


@dataclass(frozen=True, slots=True)
class Serving:
    """How Triton runs each encoder.

    Attributes:
        max_batch: Largest batch.
        device: `auto` is a GPU if Triton has one, else the CPU.
        instances: Number of copies of each encoder on every device.
        threads: Threads of each instance on a CPU; None leaves it to the runtime.
        runtime: The backend. TensorRT runs on GPUs only, OpenVINO on CPUs only.
        split_images: Whether each ONNX Runtime thread of a CPU runs images of its own.
    """

    max_batch: int = 64
    device: Device = "auto"
    instances: int = 1
    threads: int | None = None
    runtime: Runtime = "onnxruntime"
    split_images: bool = False

    def __post_init__(self) -> None:
        """Raise ExportError if the device cannot run the backend."""
        if self.runtime == "tensorrt" and self.device == "cpu":
            raise ExportError("TensorRT runs on GPUs only; choose another --device or --runtime")
        if self.runtime == "openvino" and self.device == "gpu":
            raise ExportError("OpenVINO runs on CPUs only; choose another --device or --precision")


def image_config(name: str, image_size: int, embedding_size: int, serving: Serving) -> str:
    """Configuration of an image encoder: uint8 [n, S, S, 3] -> float32 [n, D]."""
    pixels = config.ModelInput(
        name=PIXELS, data_type=config.TYPE_UINT8, dims=[image_size, image_size, 3]
    )
    split = serving.split_images
    return _config(name, pixels, IMAGE_FEATURES, embedding_size, serving, split=split)


def text_config(name: str, length: int, embedding_size: int, serving: Serving) -> str:
    """Configuration of a text encoder: int32 [n, length] -> float32 [n, D].

    With `ANY_LENGTH`, Triton batches only requests of equal length.
    """
    ids = config.ModelInput(name=TOKEN_IDS, data_type=config.TYPE_INT32, dims=[length])
    return _config(name, ids, TEXT_FEATURES, embedding_size, serving)


def _config(
    name: str,
    tensor: config.ModelInput,
    output: str,
    embedding_size: int,
    serving: Serving,
    *,
    split: bool = False,
) -> str:
    model = config.ModelConfig(
        name=name,
        backend=serving.runtime,
        max_batch_size=serving.max_batch,
        version_policy=config.ModelVersionPolicy(all=config.ModelVersionPolicy.All()),
        input=[tensor],
        output=[config.ModelOutput(name=output, data_type=config.TYPE_FP32, dims=[embedding_size])],
        instance_group=[
            config.ModelInstanceGroup(kind=_KINDS[serving.device], count=serving.instances)
        ],
        # No queue policy: with priorities or timeouts, a request that arrives while all instances
        # are busy does not wake Triton's batcher, and may wait half a second.
        dynamic_batching=config.ModelDynamicBatching(
            max_queue_delay_microseconds=QUEUE_DELAY_MICROSECONDS
        ),
    )
    if serving.runtime == "tensorrt":
        _for_tensorrt(model, serving.max_batch)
        return str(text_format.MessageToString(model))
    if serving.runtime == "openvino":
        model.instance_group[0].kind = config.ModelInstanceGroup.KIND_CPU
        parameters = {"HINT_BF16": "YES", "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}
        threads = "INFERENCE_NUM_THREADS"
    else:
        # ONNX Runtime keeps a pattern per shape, which helps only if shapes repeat.
        parameters, threads = {"enable_mem_pattern": "0"}, "intra_op_thread_count"
        if split:
            parameters["split_batches"] = "1"  # a key that NVIDIA's backend ignores
        if serving.device != "cpu":
            # 1 is HEURISTIC; by default, cuDNN tries all algorithms at each new batch size. NVIDIA
            # calls this place deprecated, but its default here overrides the accelerator "cuda".
            parameters["cudnn_conv_algo_search"] = "1"
    if serving.threads is not None:
        parameters[threads] = str(serving.threads)
    for key, value in parameters.items():
        model.parameters[key].string_value = value
    return str(text_format.MessageToString(model))


def _for_tensorrt(model: config.ModelConfig, max_batch: int) -> None:
    """Add the settings of TensorRT's backend.

    The second copy stream costs a second set of input and output buffers, a few megabytes, and
    copies a batch while another is computed. Busy waiting stays off: the gateway needs the CPU.
    """
    model.default_model_filename = MODEL_FILES["tensorrt"]
    model.instance_group[0].kind = config.ModelInstanceGroup.KIND_GPU
    sizes = sorted({*(size for size in GRAPH_BATCHES if size < max_batch), max_batch})
    preferred = [size for size in sizes if size >= PREFERRED] or [max_batch]
    model.dynamic_batching.preferred_batch_size.extend(preferred)
    cuda = model.optimization.cuda
    cuda.graphs = True
    cuda.output_copy_stream = True
    for smaller, size in zip([0, *sizes], sizes, strict=False):
        lowest = smaller + 1 if size <= FILLED_UP else size
        cuda.graph_spec.append(_graph(model.input[0], lowest, size))


def _graph(
    tensor: config.ModelInput, lowest: int, size: int
) -> config.ModelOptimizationPolicy.Cuda.GraphSpec:
    """A CUDA graph for batches of `size`, used from `lowest` on.

    Rows beyond the batch have stale contents; no encoder mixes the rows of a batch.
    Triton's backend compares the lower bound with the shape of every input, so both are given.
    """
    spec = config.ModelOptimizationPolicy.Cuda.GraphSpec(batch_size=size)
    spec.input[tensor.name].dim.extend(tensor.dims)
    if lowest < size:
        spec.graph_lower_bound.batch_size = lowest
        spec.graph_lower_bound.input[tensor.name].dim.extend(tensor.dims)
    return spec
