"""Reads the inputs and outputs of an ONNX graph."""

import onnxruntime as ort

from server.backends.errors import ConfigError
from server.backends.signature import Signature, TensorSpec

TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}


def signature_of(session: ort.InferenceSession) -> Signature:
    """Read the signature of a loaded graph.

    Raises:
        ConfigError: A tensor has a type that Triton does not exchange.
    """
    return Signature(
        tuple(map(_spec, session.get_inputs())), tuple(map(_spec, session.get_outputs()))
    )


def _spec(node: ort.NodeArg) -> TensorSpec:
    if node.type not in TRITON_TYPES:
        raise ConfigError(f"tensor '{node.name}': {node.type} is not supported")
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)
    return TensorSpec(node.name, TRITON_TYPES[node.type], dims)
