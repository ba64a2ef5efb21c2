"""The routes: parse, one call of the engine, and the schema of the answer."""

import base64
from collections.abc import Iterable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from gateway.engine import Engine, Model
from gateway.errors import MalformedRequest
from gateway.figures import Gate
from gateway.manifest import Manifest
from gateway.readiness import Readiness
from gateway.rest import inputs, schemas
from gateway.rest.intake import Intake, Work
from gateway.rest.openapi import answers, body
from gateway.rest.problems import problem
from gateway.values import Embedded, Prediction, Vectors
from gateway.vectors import cut
from gateway.zeroshot import DEFAULT_TEMPLATES


class Routes:
    """The REST API over one engine."""

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        readiness: Readiness,
        limits: inputs.RequestLimits,
        default_model: str | None,
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._readiness = readiness
        self._limits = limits
        self._default_model = default_model

    def router(self) -> APIRouter:
        """The routes, bound to this object's parts."""
        router = APIRouter()
        add = router.add_api_route
        add(
            "/v1/embeddings",
            self.embeddings,
            methods=["POST"],
            summary="Embed texts and images",
            tags=["inference"],
            openapi_extra=body(schemas.EmbeddingsRequest),
            responses=answers(schemas.EmbeddingsResponse, 400, 404, 413, 429, 500, 503, 504),
        )
        add(
            "/v1/zero-shot",
            self.zero_shot,
            methods=["POST"],
            summary="Classify images by labels",
            tags=["inference"],
            openapi_extra=body(schemas.ZeroShotRequest),
            responses=answers(schemas.ZeroShotResponse, 400, 404, 413, 429, 500, 503, 504),
        )
        add(
            "/v1/models",
            self.models,
            methods=["GET"],
            summary="List the served models",
            tags=["models"],
            responses=answers(schemas.ModelsResponse),
        )
        add(
            "/livez",
            self.livez,
            methods=["GET"],
            summary="Whether the process runs",
            tags=["probes"],
            responses=answers(schemas.StatusResponse),
        )
        add(
            "/readyz",
            self.readyz,
            methods=["GET"],
            summary="Whether every tower of every model gives its golden vector",
            tags=["probes"],
            responses=answers(schemas.StatusResponse, 503),
        )
        return router

    async def embeddings(self, request: Request) -> Response:
        """Texts and images may be mixed. Vectors have unit length."""
        async with self._intake.work(request) as work:
            asked = work.parse(schemas.EmbeddingsRequest)
            model = self._model(asked.model)
            dimensions = _dimensions(asked.dimensions, model.manifest)
            items = inputs.embedding_items(asked.input, self._limits)
            embedded = await self._engine.embed(
                model, items, work.deadline, work.timings, truncate=asked.truncate
            )
            with work.timings.stage("encode"):
                vectors = cut(embedded.vectors, dimensions)
                content = {
                    "object": "list",
                    "data": _embedding_objects(vectors, embedded, asked.encoding_format),
                    "model": model.manifest.id,
                    "usage": _usage(embedded.tokens, embedded.images),
                }
            return _answer(content, model.manifest, work)

    async def zero_shot(self, request: Request) -> Response:
        """Scores are a softmax over the labels, or for SigLIP models a sigmoid for each."""
        async with self._intake.work(request) as work:
            asked = work.parse(schemas.ZeroShotRequest)
            model = self._model(asked.model)
            templates = asked.templates or DEFAULT_TEMPLATES
            self._limits.labels(len(asked.labels), len(templates))
            for name, texts in (("labels", asked.labels), ("templates", templates)):
                for index, text in enumerate(texts):
                    self._limits.text(text, f"{name}[{index}]")
            images = (
                inputs.images([asked.image], "image", self._limits)
                if asked.image is not None
                else inputs.images(asked.images or [], "images", self._limits)
            )
            classified = await self._engine.zero_shot(
                model,
                images,
                asked.labels,
                templates,
                asked.top_k or len(asked.labels),
                work.deadline,
                work.timings,
            )
            content: dict[str, Any] = {
                "object": "zero_shot",
                "model": model.manifest.id,
                "results": [
                    {"index": index, "predictions": [_prediction(entry) for entry in entries]}
                    for index, entries in enumerate(classified.predictions)
                ],
                "usage": _usage(classified.tokens, len(images)),
            }
            if classified.truncated:
                content["truncated"] = True
            return _answer(content, model.manifest, work)

    async def models(self) -> Response:
        """In OpenAI's shape, with what a client must know to use the vectors."""
        served = [_model_object(model.manifest) for model in self._engine.models.values()]
        return _json({"object": "list", "data": served})

    async def livez(self) -> Response:
        """Always 200 while the process runs."""
        return _json({"status": "live"})

    async def readyz(self) -> Response:
        """200 when right answers can be given; else 503, naming what stands in the way."""
        problems = await self._readiness.problems()
        if problems:
            return problem(503, "not ready: " + "; ".join(problems), "not_ready", retry=True)
        return _json({"status": "ready"})

    def _model(self, asked: str | None) -> Model:
        model_id = asked if asked is not None else self._default_model
        if model_id is None:
            served = ", ".join(sorted(self._engine.models))
            raise MalformedRequest(f"model: name one of: {served}", param="model")
        return self._engine.model(model_id)


def _dimensions(asked: int | None, manifest: Manifest) -> int:
    size = manifest.embedding_size
    if asked is not None and asked > size:
        raise MalformedRequest(
            f"dimensions: {asked} is more than the {size} of model {manifest.id!r}",
            param="dimensions",
        )
    return asked or size


def _embedding_objects(vectors: Vectors, embedded: Embedded, how: str) -> list[dict[str, Any]]:
    rows: Iterable[Any] = vectors
    if how == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    return [
        {"object": "embedding", "index": index, "embedding": row}
        | ({"truncated": True} if embedded.truncated[index] else {})
        for index, row in enumerate(rows)
    ]


def _prediction(entry: Prediction) -> dict[str, Any]:
    return {
        "label": entry.label,
        "index": entry.index,
        "score": entry.score,
        "cosine": entry.cosine,
    }


def _usage(tokens: int, images: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens, "images": images}


def _model_object(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.id,
        "object": "model",
        "created": manifest.created,
        "owned_by": "openclip-triton",
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "open_clip_name": manifest.open_clip_name,
        "pretrained": manifest.pretrained,
        "precision": manifest.precision,
        "runtime": manifest.runtime,
        "gate": _gate_object(manifest.gate),
        "embedding_size": manifest.embedding_size,
        "context_length": manifest.tokenizer.context_length,
        "token_lengths": list(manifest.token_lengths),
        "image_size": manifest.preprocessing.image_size,
        "scoring": "softmax" if manifest.logit_bias is None else "sigmoid",
    }


def _gate_object(gate: Gate) -> dict[str, Any]:
    accuracy = gate.zero_shot
    return {
        "passed": gate.passed,
        "failures": list(gate.failures),
        "image_min_cosine": gate.image.min_cosine,
        "text_min_cosine": gate.text.min_cosine,
        "zero_shot_accuracy": accuracy and accuracy.accuracy,
        "pytorch_zero_shot_accuracy": accuracy and accuracy.pytorch_accuracy,
    }


def _answer(content: object, manifest: Manifest, work: Work) -> Response:
    timings = ", ".join(
        f"{name};dur={seconds * 1000:.2f}" for name, seconds in work.timings.stages.items()
    )
    return _json(content, {"x-model-fingerprint": manifest.fingerprint, "server-timing": timings})


def _json(content: object, headers: dict[str, str] | None = None) -> Response:
    encoded = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(encoded, headers=headers, media_type="application/json")
