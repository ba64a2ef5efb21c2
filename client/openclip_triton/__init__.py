"""The client of openclip-triton: embeddings, zero-shot and similarity over gRPC."""

from openclip_triton.client import Client
from openclip_triton.errors import (
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    ModelChanged,
    NotFound,
    Overloaded,
    ServiceFailed,
    Unauthenticated,
    Unavailable,
    UnreadableFile,
)
from openclip_triton.values import (
    Model,
    Prediction,
    Ranked,
    Result,
    Similarity,
    Space,
    StreamSettings,
)

__all__ = [
    "Client",
    "ClientError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidRequest",
    "Model",
    "ModelChanged",
    "NotFound",
    "Overloaded",
    "Prediction",
    "Ranked",
    "Result",
    "ServiceFailed",
    "Similarity",
    "Space",
    "StreamSettings",
    "Unauthenticated",
    "Unavailable",
    "UnreadableFile",
]
