"""The routes that run a model: parse, one call of the engine, and the answer."""

import time
from typing import Any

from fastapi import Request, Response

from gateway.models.values import Classified, TextItem, Timings
from gateway.pipeline import requests as asks
from gateway.pipeline.concurrency import nearby
from gateway.pipeline.engine import Engine
from gateway.rest import answers, inputs, schemas
from gateway.rest.intake import Intake


class InferenceRoutes:
    """Embeddings, zero-shot classification, similarity and rerank, from JSON."""

    def __init__(self, engine: Engine, intake: Intake) -> None:
        self._engine = engine
        self._intake = intake

    async def embeddings(self, request: Request) -> Response:
        """Texts and images may be mixed. Vectors have unit length."""
        async with self._intake.work(request) as work:
            asked = await work.parse(schemas.EmbeddingsRequest)
            ask = asks.Embed(
                asked.model or None,
                inputs.embedding_items(asked),
                asked.dimensions,
                truncate=asked.cuts,
                skip=asked.on_error == "skip",
            )
            embedded = await self._engine.embed(ask, work.deadline, work.timings)
            with work.timings.stage("encode"):
                encoding = asked.encoding_format or asked.embedding_type or "float"
                content = {
                    "id": f"embd-{work.request_id}",
                    "object": "list",
                    "created": int(time.time()),
                    "data": answers.embedding_objects(embedded, encoding),
                    "model": asked.model or embedded.manifest.id,
                    "usage": answers.usage(embedded.tokens, embedded.images),
                }
            return answers.answer(content, embedded.manifest, work.timings)

    async def zero_shot(self, request: Request) -> Response:
        """Scores are a softmax over the labels, or for SigLIP models a sigmoid for each."""
        async with self._intake.work(request, images=True) as work:
            asked = await work.parse(schemas.ZeroShotRequest)
            ask = asks.Classify(
                asked.model or None,
                inputs.images(asked.image, asked.images),
                asked.labels,
                asked.label_set,
                asked.templates,
                asked.top_k,
            )
            classified = await self._engine.classify(ask, work.deadline, work.timings)
            model = asked.model or classified.manifest.id
            values = sum(map(len, classified.predictions))
            return await nearby(_classified, classified, model, work.timings, values=values)

    async def similarity(self, request: Request) -> Response:
        """The cosine of every image with every text, and OpenCLIP's logits."""
        async with self._intake.work(request, images=True) as work:
            asked = await work.parse(schemas.SimilarityRequest)
            texts = [TextItem(text, f"texts[{index}]") for index, text in enumerate(asked.texts)]
            ask = asks.Similarity(
                asked.model or None, texts, inputs.images(asked.image, asked.images)
            )
            compared = await self._engine.similarity(ask, work.deadline, work.timings)
            content: dict[str, Any] = {
                "object": "similarity",
                "model": asked.model or compared.manifest.id,
                "cosine": compared.cosine.tolist(),
                "logits_per_image": compared.logits.tolist(),
                "logits_per_text": compared.logits.T.tolist(),
                "usage": answers.usage(compared.tokens, compared.images),
            }
            if any(compared.truncated):
                content["truncated"] = [i for i, cut in enumerate(compared.truncated) if cut]
            return answers.answer(content, compared.manifest, work.timings)

    async def rerank(self, request: Request) -> Response:
        """Documents by their cosine with the query, best first."""
        async with self._intake.work(request) as work:
            asked = await work.parse(schemas.RerankRequest)
            documents = inputs.items(asked.documents, "documents")
            ask = asks.Rerank(
                asked.model or None, inputs.item(asked.query, "query"), documents, asked.top_n
            )
            ranked = await self._engine.rerank(ask, work.deadline, work.timings)
            results: list[dict[str, Any]] = [
                {"index": index, "relevance_score": cosine} for index, cosine in ranked.order
            ]
            if asked.return_documents:
                for result in results:
                    result["document"] = answers.document(documents[result["index"]])
            content: dict[str, Any] = {
                "id": f"rerank-{work.request_id}",
                "object": "rerank",
                "model": asked.model or ranked.manifest.id,
                "results": results,
                "usage": answers.usage(ranked.tokens, ranked.images),
            }
            if ranked.truncated:
                content["truncated"] = True
            return answers.answer(content, ranked.manifest, work.timings)


def _classified(classified: Classified, model: str, timings: Timings) -> Response:
    content: dict[str, Any] = {
        "object": "zero_shot",
        "model": model,
        "results": [
            {"index": index, "predictions": [answers.prediction(each) for each in entries]}
            for index, entries in enumerate(classified.predictions)
        ],
        "usage": answers.usage(classified.tokens, classified.images),
    }
    if classified.truncated:
        content["truncated"] = True
    return answers.answer(content, classified.manifest, timings)
