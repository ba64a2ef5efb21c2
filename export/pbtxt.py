"""`config.pbtxt` of a tower, through Triton's own protobuf messages."""

from dataclasses import dataclass
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as config

from gateway.manifest import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKEN_IDS

QUEUE_DELAY_MICROSECONDS = 500

Device = Literal["auto", "cpu", "gpu"]
_KINDS = {
    "auto": config.ModelInstanceGroup.KIND_AUTO,
    "cpu": config.ModelInstanceGroup.KIND_CPU,
    "gpu": config.ModelInstanceGroup.KIND_GPU,
}


@dataclass(frozen=True, slots=True)
class Serving:
    """How Triton runs each tower.

    Attributes:
        max_batch: Items in one execution.
        device: `auto` is a GPU where Triton has one, and the CPU otherwise.
        instances: Copies of each tower, on every device.
        threads: ONNX Runtime's `intra_op_thread_count`; None leaves it to ONNX Runtime.
    """

    max_batch: int = 64
    device: Device = "auto"
    instances: int = 1
    threads: int | None = None


def image_config(name: str, image_size: int, embedding_size: int, serving: Serving) -> str:
    """The configuration of an image tower: uint8 [n, S, S, 3] -> float32 [n, D]."""
    pixels = config.ModelInput(
        name=PIXELS, data_type=config.TYPE_UINT8, dims=[image_size, image_size, 3]
    )
    return _config(name, pixels, IMAGE_FEATURES, embedding_size, serving)


def text_config(name: str, length: int, embedding_size: int, serving: Serving) -> str:
    """The configuration of a text tower: int32 [n, length] -> float32 [n, D]."""
    ids = config.ModelInput(name=TOKEN_IDS, data_type=config.TYPE_INT32, dims=[length])
    return _config(name, ids, TEXT_FEATURES, embedding_size, serving)


def _config(
    name: str, tensor: config.ModelInput, output: str, embedding_size: int, serving: Serving
) -> str:
    model = config.ModelConfig(
        name=name,
        backend="onnxruntime",
        max_batch_size=serving.max_batch,
        version_policy=config.ModelVersionPolicy(all=config.ModelVersionPolicy.All()),
        input=[tensor],
        output=[config.ModelOutput(name=output, data_type=config.TYPE_FP32, dims=[embedding_size])],
        instance_group=[
            config.ModelInstanceGroup(kind=_KINDS[serving.device], count=serving.instances)
        ],
        dynamic_batching=config.ModelDynamicBatching(
            max_queue_delay_microseconds=QUEUE_DELAY_MICROSECONDS
        ),
    )
    if serving.threads is not None:
        model.parameters["intra_op_thread_count"].string_value = str(serving.threads)
    return str(text_format.MessageToString(model))
