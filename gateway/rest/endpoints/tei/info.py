"""`GET /info`: the default model and the limits."""

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from gateway.errors import GatewayError
from gateway.inference.capacity import MAX_CALL_TOKENS
from gateway.models.registry import Models
from gateway.rest import convert
from gateway.rest.endpoint import add_get
from gateway.rest.endpoints.tei import problems
from gateway.rest.openapi import answers

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class EmbeddingModel(BaseModel):
    """What TEI says of an embedding model."""

    pooling: Literal["clip"] = Field(description="The model's own.")


class ModelType(BaseModel):
    """What kind of model it is."""

    embedding: EmbeddingModel


class InfoResponse(BaseModel):
    """The default model and the limits, in TEI's shape; `/v1/models` says more."""

    model_id: str
    model_sha: str = Field(description="The fingerprint: where it is equal, vectors compare.")
    model_dtype: str = Field(description="The precision.")
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int = Field(description="The context length, in tokens.")
    max_batch_tokens: int
    max_batch_requests: None = None
    max_client_batch_size: int
    auto_truncate: Literal[True]
    tokenization_workers: int
    version: str = Field(description="This service's.")
    sha: None = None
    docker_label: None = None


def router(models: Models, limits: Mapping[str, object]) -> APIRouter:
    """`GET /info`; `limits` are the fields of the answer that depend on settings."""

    async def info(request: Request) -> Response:
        """The default model and the limits; `/v1/models` says more."""
        try:
            manifest = models.find(None).manifest
        except GatewayError as error:
            return problems.problem(error, request)
        content = {
            "model_id": manifest.id,
            "model_sha": manifest.fingerprint,
            "model_dtype": _DTYPES.get(manifest.precision, manifest.precision),
            "model_type": {"embedding": {"pooling": "clip"}},
            "max_input_length": manifest.tokenizer.context_length,
            "max_batch_tokens": MAX_CALL_TOKENS,
            "max_batch_requests": None,
            "auto_truncate": True,
            "sha": None,
            "docker_label": None,
        }
        return convert.plain({**content, **limits})

    made = APIRouter(tags=["models"])
    responses = answers(InfoResponse, 401, 404, 422, failed=problems.TeiErrorResponse)
    add_get(made, "/info", info, "The default model and the limits, in TEI's shape", responses)
    return made
