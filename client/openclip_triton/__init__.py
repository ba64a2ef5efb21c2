"""The client of openclip-triton: embeddings, classification and ranking over gRPC.

May import `openclip_api`.
"""

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
    Rejected,
    ServiceFailed,
    Transient,
    Unauthenticated,
    Unavailable,
    UnreadableFile,
)

if TYPE_CHECKING:
    from openclip_triton.async_client import AsyncClient
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
    "AsyncClient", "Client", "ClientError", "ConnectionFailed", "DeadlineExceeded",
    "InvalidRequest", "Model", "ModelChanged", "NotFound", "Overloaded", "Prediction", "Ranked",
    "Rejected", "Result", "ServiceFailed", "Similarity", "Space", "StreamSettings", "Transient",
    "Unauthenticated", "Unavailable", "UnreadableFile",
]  # fmt: skip


def __getattr__(name: str) -> object:
    # At first use: the command's help needs neither numpy nor gRPC.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Client": "client", "AsyncClient": "async_client"}.get(name, "values")
    return getattr(import_module(f"{__name__}.{module}"), name)
