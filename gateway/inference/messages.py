"""KServe's messages: the request that runs an encoder, and the vectors in its answer."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from gateway.inference.client import Call

URGENT, BULK = 1, 2  # priority levels of `config.pbtxt`


def infer_request(call: Call, wait_s: float) -> service_pb2.ModelInferRequest:
    """The request for an encoder; after `wait_s` in Triton's queue it is not run any more."""
    encoder, batch = call.encoder, call.batch
    request = service_pb2.ModelInferRequest(
        model_name=encoder.model, model_version=str(encoder.version)
    )
    request.inputs.add(
        name=encoder.input_name, datatype=np_to_triton_dtype(batch.dtype), shape=batch.shape
    )
    request.outputs.add(name=encoder.output_name)
    request.raw_input_contents.append(batch.tobytes())
    # A model whose configuration has no levels or no timeout ignores them.
    request.parameters["priority"].int64_param = BULK if call.bulk else URGENT
    request.parameters["timeout"].int64_param = round(wait_s * 1e6)
    return request


def output(response: service_pb2.ModelInferResponse) -> NDArray[Any] | None:
    """The float32 array of an answer; None where it holds anything else."""
    if len(response.outputs) != 1 or len(response.raw_output_contents) != 1:
        return None
    [described], [raw] = response.outputs, response.raw_output_contents
    if described.datatype != "FP32" or len(raw) != 4 * math.prod(described.shape):
        return None
    return np.frombuffer(raw, dtype="<f4").reshape(described.shape)
