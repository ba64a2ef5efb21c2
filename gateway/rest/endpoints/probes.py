"""Probes, and the metrics where they have no port of their own."""

from functools import partial
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway.operations.readiness import Readiness
from gateway.rest import convert
from gateway.rest.endpoint import add_get
from gateway.rest.metrics_port import scraped
from gateway.rest.openapi import answers
from gateway.rest.problems import ErrorResponse, problem
from gateway.rest.security import LIVE, READY
from gateway.telemetry.metrics import Metrics


class LiveResponse(BaseModel):
    """The process runs."""

    status: Literal["live"]


class ModelState(BaseModel):
    """Whether one model gives right answers."""

    ready: bool
    default: bool = Field(description="Whether requests that name no model are for it.")
    asleep: bool = Field(
        description="Whether it is not loaded, since nobody used it; a request has it loaded."
    )
    problems: list[str] = Field(description="What stands in the way, one line each.")


class ReadyResponse(BaseModel):
    """Right answers can be given."""

    status: Literal["ready"]
    models: dict[str, ModelState] = Field(description="The state of each served model, by its id.")


class NotReadyResponse(ErrorResponse):
    """Right answers cannot be given."""

    models: dict[str, ModelState] = Field(description="The state of each served model, by its id.")


def router(readiness: Readiness, metrics: Metrics | None) -> APIRouter:
    """Probes; `/metrics` only where `metrics` is given."""

    async def livez() -> Response:
        """Always 200 while the process runs."""
        return convert.plain({"status": "live"})

    async def readyz() -> Response:
        """200 when right answers can be given; else 503, naming what stands in the way."""
        states = await readiness.states()
        models = {
            model_id: ModelState.model_validate(state, from_attributes=True).model_dump()
            for model_id, state in states.items()
        }
        problems = readiness.verdict(states)
        if not problems:
            return convert.plain({"status": "ready", "models": models})
        message = "not ready: " + "; ".join(problems)
        return problem(503, message, "not_ready", retry=True, more={"models": models})

    made = APIRouter(tags=["probes"])
    for path in LIVE:
        add_get(made, path, livez, "Whether the process runs", answers(LiveResponse))
    responses = answers(ReadyResponse, 503, failed=NotReadyResponse)
    for path in READY:
        add_get(made, path, readyz, "Whether right answers can be given", responses)
    if metrics is not None:
        made.add_api_route(
            "/metrics", partial(scraped, metrics), methods=["GET", "HEAD"], include_in_schema=False
        )
    return made
