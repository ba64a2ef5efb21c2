"""Messages of Triton's inference protocol: arrays in, arrays out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype


def infer_request(
    model: str, version: int, input_name: str, output_name: str, batch: NDArray[Any]
) -> service_pb2.ModelInferRequest:
    """A call of one model with one input and one output."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version))
    request.inputs.add(name=input_name, datatype=np_to_triton_dtype(batch.dtype), shape=batch.shape)
    request.outputs.add(name=output_name)
    request.raw_input_contents.append(batch.tobytes())
    return request


def output(response: service_pb2.ModelInferResponse) -> NDArray[Any] | None:
    """The one float32 array of an answer; None where it holds something else."""
    if len(response.outputs) != 1 or len(response.raw_output_contents) != 1:
        return None
    [described], [raw] = response.outputs, response.raw_output_contents
    if described.datatype != "FP32" or len(raw) != 4 * int(np.prod(described.shape)):
        return None
    return np.frombuffer(raw, dtype="<f4").reshape(described.shape)
