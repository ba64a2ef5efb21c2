"""Reads the inputs and outputs of an ONNX graph."""

import onnxruntime as ort

from server.backends.errors import ConfigError
from server.backends.signature import Signature, TensorSpec

TRITON_TYPES = {
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(bool)": "TYPE_BOOL",
} | {f"tensor({kind}{bits})": f"TYPE_{kind.upper()}{bits}"
     for kind in ("int", "uint") for bits in (8, 16, 32, 64)}  # fmt: skip


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
