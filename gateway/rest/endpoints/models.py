"""`GET /v1/models`, in OpenAI's shape, with what a client must know; `GET /models`, infinity's."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway.inference.client import Encoder
from gateway.inference.encoders import encoders_of
from gateway.models.manifest import Manifest
from gateway.models.registry import Models
from gateway.rest import convert
from gateway.rest.endpoint import add_get
from gateway.rest.openapi import MARKDOWN, answers

CARDS = "/v1/cards/{model_id:path}"  # an alias may have a slash


class GateObject(BaseModel):
    """How the model did against OpenCLIP in PyTorch FP32 when it was exported."""

    passed: bool = Field(description="`false`: published all the same, by `--allow-failing`.")
    failures: list[str] = Field(description="What fell short, one line each.")
    image_min_cosine: float
    text_min_cosine: float
    zero_shot_accuracy: float | None = Field(
        description="On the labelled set that it was measured on, 0 to 1; `null` without one."
    )
    pytorch_zero_shot_accuracy: float | None


class ModelObject(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When it was exported, in seconds since 1970.")
    owned_by: Literal["openclip-triton"] = "openclip-triton"
    aliases: list[str] = Field(description="Its other names.")
    default: bool = Field(description="Whether requests that name no model are for it.")
    asleep: bool = Field(
        description="Whether it is not loaded, since nobody used it; a request has it loaded."
    )
    version: int
    fingerprint: str = Field(description="Equal fingerprints: vectors may be compared.")
    open_clip_name: str
    pretrained: str | None = Field(description="`null`: random weights, good for tests alone.")
    precision: str
    runtime: str
    gate: GateObject
    embedding_size: int
    context_length: int
    token_lengths: list[int] = Field(
        description="Lengths that text is padded to; empty: nothing is padded."
    )
    image_size: int
    scoring: Literal["softmax", "sigmoid"]
    card: str | None = Field(
        description="Path of its model card in Markdown; `null`: exported without one."
    )
    triton_models: list[str] = Field(
        description="Names in Triton, each at `version`: of the image encoder, then of the text "
        "encoders, one for each of `token_lengths`."
    )


class ModelsResponse(BaseModel):
    """The served models, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class InfinityModelObject(BaseModel):
    """A served model, as infinity's client needs it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When it was exported, in seconds since 1970.")
    owned_by: Literal["infinity"] = Field(description="The one name that infinity's client takes.")
    backend: str = Field(description="As `runtime` in `/v1/models`.")
    capabilities: list[Literal["embed", "image_embed", "rerank"]]
    stats: dict[str, float] = Field(description="Empty; `/metrics` has them.")


class InfinityModelsResponse(BaseModel):
    """The served models, in infinity's shape."""

    object: Literal["list"] = "list"
    data: list[InfinityModelObject]


def router(models: Models, asleep: Callable[[Encoder], bool]) -> APIRouter:
    """`/v1/models` and one model, and `/models` for infinity's client.

    Args:
        models: What is served.
        asleep: Whether an encoder is not loaded because nobody used it.
    """

    async def listed() -> Response:
        """In OpenAI's shape, with what a client must know to use the vectors."""
        served = [_model_object(models, model.manifest, asleep) for model in models]
        return convert.plain({"object": "list", "data": served})

    async def one(model_id: str) -> Response:
        """One model, by its id or alias."""
        return convert.plain(_model_object(models, models.find(model_id).manifest, asleep))

    async def card(model_id: str) -> Response:
        """What the model is, where it is from, how it was measured, and its limits."""
        text = await asyncio.to_thread(models.find(model_id).read_card)
        return Response(text, media_type="text/markdown")

    async def infinitys() -> Response:
        """In infinity's shape; `/v1/models` says more."""
        capabilities = ["embed", "image_embed", "rerank"]
        served = [
            {"id": each.id, "object": "model", "created": each.created, "owned_by": "infinity",
             "backend": each.runtime, "capabilities": capabilities, "stats": {}}
            for each in (model.manifest for model in models)
        ]  # fmt: skip
        return convert.plain({"object": "list", "data": served})

    made = APIRouter(tags=["models"])
    add_get(
        made, "/models", infinitys, "List the served models, in infinity's shape",
        answers(InfinityModelsResponse, 401),
    )  # fmt: skip
    add_get(made, "/v1/models", listed, "List the served models", answers(ModelsResponse, 401))
    add_get(made, "/v1/models/{model_id:path}", one, "One model", answers(ModelObject, 401, 404))
    responses = answers(None, 401, 404, content=MARKDOWN)
    add_get(made, CARDS, card, "The card of a model, in Markdown", responses)
    return made


def _model_object(
    models: Models, manifest: Manifest, asleep: Callable[[Encoder], bool]
) -> dict[str, Any]:
    """A served model, of these."""
    gate = manifest.gate
    return {
        "id": manifest.id,
        "object": "model",
        "created": manifest.created,
        "owned_by": "openclip-triton",
        "aliases": models.aliases(manifest.id),
        "default": models.is_default(manifest.id),
        "asleep": any(map(asleep, encoders_of(manifest))),
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "open_clip_name": manifest.open_clip_name,
        "pretrained": manifest.pretrained,
        "precision": manifest.precision,
        "runtime": manifest.runtime,
        "gate": {
            "passed": gate.passed,
            "failures": list(gate.failures),
            "image_min_cosine": gate.image.min_cosine,
            "text_min_cosine": gate.text.min_cosine,
            "zero_shot_accuracy": gate.zero_shot and gate.zero_shot.accuracy,
            "pytorch_zero_shot_accuracy": gate.zero_shot and gate.zero_shot.pytorch_accuracy,
        },
        "embedding_size": manifest.embedding_size,
        "context_length": manifest.tokenizer.context_length,
        "token_lengths": list(manifest.token_lengths),
        "image_size": manifest.preprocessing.image_size,
        "scoring": manifest.scoring,
        "card": CARDS.partition("{")[0] + manifest.id if manifest.card else None,
        "triton_models": list(manifest.triton.names),
    }
