"""The client of openclip-triton: embeddings, zero-shot and similarity over gRPC."""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from openclip_triton.client import Client
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


def __getattr__(name: str) -> object:
    # At first use: the command's help needs neither numpy nor gRPC.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "client" if name == "Client" else "values"
    return getattr(import_module(f"{__name__}.{module}"), name)
