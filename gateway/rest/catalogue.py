"""The routes that tell what is served, and whether it can be."""

import asyncio

from fastapi import Response

from gateway.models.registry import Models
from gateway.operations.readiness import Readiness
from gateway.rest import answers
from gateway.rest.problems import problem
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics


class CatalogueRoutes:
    """Models and probes."""

    def __init__(self, models: Models, readiness: Readiness) -> None:
        self._models = models
        self._readiness = readiness

    async def models(self) -> Response:
        """In OpenAI's shape, with what a client must know to use the vectors."""
        served = [answers.model_object(self._models, model.manifest) for model in self._models]
        return answers.plain({"object": "list", "data": served})

    async def model(self, model_id: str) -> Response:
        """One model, by its id or alias."""
        manifest = self._models.find(model_id).manifest
        return answers.plain(answers.model_object(self._models, manifest))

    async def livez(self) -> Response:
        """Always 200 while the process runs."""
        return answers.plain({"status": "live"})

    async def readyz(self) -> Response:
        """200 when right answers can be given; else 503, naming what stands in the way."""
        states = await self._readiness.states()
        models = {
            model_id: {
                "ready": state.ready, "default": state.default, "problems": list(state.problems)
            }
            for model_id, state in states.items()
        }  # fmt: skip
        problems = self._readiness.verdict(states)
        if not problems:
            return answers.plain({"status": "ready", "models": models})
        message = "not ready: " + "; ".join(problems)
        return problem(503, message, "not_ready", retry=True, beside={"models": models})


class MetricsRoute:
    """What is counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def metrics(self) -> Response:
        """In Prometheus's text format."""
        rendered = await asyncio.to_thread(self._metrics.rendered)
        return Response(rendered, media_type=CONTENT_TYPE)
