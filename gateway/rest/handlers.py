"""The routes that run a model: parse a body, a raw image or a form, call the engine, answer."""

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from fastapi import Request, Response
from starlette.datastructures import Headers

from gateway.errors import MalformedRequest, quoted
from gateway.models.values import Classified, Embedded, ImageItem, TextItem
from gateway.pipeline import requests
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rest import convert, schemas
from gateway.rest.forms import Forms
from gateway.rest.intake import FORM, RAW, Intake, Work
from gateway.rest.schemas import ImageQuery
from gateway.telemetry.record import Record


class InferenceRoutes:
    """Embeddings, zero-shot classification, similarity and rerank, from JSON."""

    def __init__(self, engine: Engine, intake: Intake) -> None:
        self._engine = engine
        self._intake = intake

    async def embeddings(self, request: Request) -> Response:
        """Texts and images may be mixed. Vectors have unit length."""
        async with self._intake.work(request) as work:
            body = await work.parse(schemas.EmbeddingsRequest)
            encoding = convert.encoding(body)
            inference_request = requests.Embed(
                body.model or None,
                convert.embedding_items(body),
                body.dimensions,
                truncate=body.truncate is not False and body.truncation is not False,
                skip=body.on_error == "skip",
            )
            embedded = await work.run(self._engine.embed(inference_request, work.record))
            with work.record.stage("encode"):
                content = {
                    "id": f"embd-{work.request_id}",
                    "object": "list",
                    "created": int(time.time()),
                    "data": convert.embedding_objects(embedded, encoding),
                    "model": body.model or embedded.manifest.id,
                    "usage": convert.usage(embedded.tokens, embedded.images),
                }
            return convert.answer(content, embedded.manifest, work.record)

    async def zero_shot(self, request: Request) -> Response:
        """Scores are a softmax over the labels, or for SigLIP models a sigmoid for each."""
        async with self._intake.work(request, images=True) as work:
            body = await work.parse(schemas.ZeroShotRequest)
            inference_request = requests.Classify(
                body.model or None,
                convert.images(body.image, body.images),
                body.labels,
                body.label_set,
                body.templates,
                body.top_k,
            )
            classified = await work.run(self._engine.classify(inference_request, work.record))
            model = body.model or classified.manifest.id
            values = sum(map(len, classified.predictions))
            return await in_thread_if_large(
                _classified, classified, model, work.record, values=values
            )

    async def similarity(self, request: Request) -> Response:
        """The cosine of every image with every text, and OpenCLIP's logits."""
        async with self._intake.work(request, images=True) as work:
            body = await work.parse(schemas.SimilarityRequest)
            texts = [TextItem(text, f"texts[{index}]") for index, text in enumerate(body.texts)]
            inference_request = requests.Similarity(
                body.model or None, texts, convert.images(body.image, body.images)
            )
            compared = await work.run(self._engine.similarity(inference_request, work.record))
            content: dict[str, Any] = {
                "object": "similarity",
                "model": body.model or compared.manifest.id,
                "cosine": compared.cosine.tolist(),
                "logits_per_image": compared.logits.tolist(),
                "logits_per_text": compared.logits.T.tolist(),
                "usage": convert.usage(compared.tokens, compared.images),
            }
            if any(compared.truncated):
                content["truncated"] = [i for i, cut in enumerate(compared.truncated) if cut]
            return convert.answer(content, compared.manifest, work.record)

    async def rerank(self, request: Request) -> Response:
        """Documents by their cosine with the query, best first."""
        async with self._intake.work(request) as work:
            body = await work.parse(schemas.RerankRequest)
            documents = convert.items(body.documents, "documents")
            inference_request = requests.Rerank(
                body.model or None, convert.item(body.query, "query"), documents, body.top_n
            )
            ranked = await work.run(self._engine.rerank(inference_request, work.record))
            results: list[dict[str, Any]] = [
                {"index": index, "relevance_score": cosine} for index, cosine in ranked.order
            ]
            if body.return_documents:
                for result in results:
                    result["document"] = convert.document(documents[result["index"]])
            content: dict[str, Any] = {
                "id": f"rerank-{work.request_id}",
                "object": "rerank",
                "model": body.model or ranked.manifest.id,
                "results": results,
                "usage": convert.usage(ranked.tokens, ranked.images),
            }
            if ranked.truncated:
                content["truncated"] = True
            return convert.answer(content, ranked.manifest, work.record)


def _classified(classified: Classified, model: str, record: Record) -> Response:
    content: dict[str, Any] = {
        "object": "zero_shot",
        "model": model,
        "results": [
            {"index": index, "predictions": [convert.prediction(each) for each in entries]}
            for index, entries in enumerate(classified.predictions)
        ],
        "usage": convert.usage(classified.tokens, classified.images),
    }
    if classified.truncated:
        content["truncated"] = True
    return convert.answer(content, classified.manifest, record)


PACKED = "application/octet-stream"
FORM_DATA = "multipart/form-data"


class UploadRoutes:
    """Embeds images without base64."""

    def __init__(self, engine: Engine, intake: Intake, max_items: int) -> None:
        self._engine = engine
        self._intake = intake
        self._forms = Forms(max_items, tuple(ImageQuery.model_fields))

    async def embeddings(self, request: Request) -> Response:
        """`Accept: application/octet-stream` answers packed little-endian float32."""
        multiple = FORM if _kind(request.headers) == FORM_DATA else RAW
        async with self._intake.work(request, images=True, multiple=multiple) as work:
            images, fields = await self._images(request.headers, work)
            options = work.check(ImageQuery, _once(request.query_params.multi_items(), fields))
            inference_request = requests.Embed(options.model or None, images, options.dimensions)
            embedded = await work.run(self._engine.embed(inference_request, work.record))
            if _accepts_packed(request.headers.get("accept", "")):
                return _packed(embedded, work)
            content = {
                "id": f"embd-{work.request_id}",
                "object": "list",
                "created": int(time.time()),
                "data": convert.embedding_objects(embedded, options.encoding_format),
                "model": options.model or embedded.manifest.id,
                "usage": convert.usage(0, embedded.images),
            }
            return convert.answer(content, embedded.manifest, work.record)

    async def _images(self, headers: Headers, work: Work) -> tuple[list[ImageItem], dict[str, str]]:
        """The images, and the fields of a form."""
        kind = _kind(headers)
        if kind == FORM_DATA:
            form = await self._forms.read(headers, work.body)
            images = [ImageItem(file, f"files[{index}]") for index, file in enumerate(form.files)]
            return images, form.fields
        if kind and kind != PACKED and not kind.startswith("image/"):
            raise MalformedRequest(
                f"content-type {quoted(kind)}: send an image (image/* or {PACKED}) "
                "or multipart/form-data"
            )
        return [ImageItem(work.body, "body")], {}


def _kind(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _once(query: Iterable[tuple[str, str]], fields: Mapping[str, str]) -> dict[str, str]:
    """What the query and the form say; neither may say a thing twice."""
    found: dict[str, str] = {}
    for name, value in (*query, *fields.items()):
        if name in found:
            raise MalformedRequest(f"{quoted(name)}: given twice", param=name)
        found[name] = value
    return found


def _accepts_packed(accept: str) -> bool:
    """Whether a header of Accept names the packed form, and not with a weight of nothing."""
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        if kind == PACKED:
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


def _packed(embedded: Embedded, work: Work) -> Response:
    rows, size = embedded.vectors.shape
    headers = convert.headers(embedded.manifest, work.record)
    return Response(
        np.ascontiguousarray(embedded.vectors, dtype="<f4").tobytes(),
        media_type=PACKED,
        headers=headers | {"x-embedding-shape": f"{rows},{size}"},
    )
