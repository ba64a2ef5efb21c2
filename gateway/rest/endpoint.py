"""A route that runs a model: where it is, who answers, and what the OpenAPI document says of it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from gateway.pipeline.engine import Engine
from gateway.rest.intake import Intake, Work
from gateway.rest.openapi import BYTES, answers, json_body
from gateway.rest.problems import ErrorResponse

Answer = Callable[[Engine, Work, Any], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """`POST path`, as a module of `gateway.rest.endpoints` declares it."""

    path: str
    summary: str  # in the document; the docstring of `answer` says more
    request: type[BaseModel]  # the schema of the JSON body
    response: type[BaseModel]
    answer: Answer  # to a body that was parsed as `request`
    images: bool | None = None  # whether the body holds images, where the route decides that
    body: dict[str, Any] | None = None  # what the document says of a body that is no JSON
    other_paths: tuple[str, ...] = ()  # for clients that know it there; not in the document
    failures: tuple[int, ...] = (400, 401, 404, 413, 429, 500, 503, 504)
    failed: type[BaseModel] = ErrorResponse  # the schema of errors

    @classmethod
    def at(
        cls, path: str, summary: str, request: type[BaseModel], response: type[BaseModel],
        **options: Any,  # noqa: ANN401 - the other fields
    ) -> Callable[[Answer], Self]:  # fmt: skip
        """Decorate the function that answers this route, and make an endpoint of it."""
        return lambda answer: cls(path, summary, request, response, answer, **options)

    async def handle(self, engine: Engine, intake: Intake, request: Request) -> Response:
        """Let a request in, parse its body, and answer it.

        Raises: As `Intake.work`, `Work.parse` and `Work.run`.
        """
        async with intake.work(request, images=self.images) as work:
            return await self.answer(engine, work, await work.parse(self.request))


def router(endpoints: Iterable[Endpoint], engine: Engine, intake: Intake) -> APIRouter:
    """Their routes, over one engine."""
    made = APIRouter()
    for each in endpoints:
        handler = partial(each.handle, engine, intake)
        made.add_api_route(
            each.path,
            handler,
            methods=["POST"],
            name=each.answer.__name__,
            summary=each.summary,
            description=each.answer.__doc__,
            tags=["inference"],
            openapi_extra=each.body or json_body(each.request),
            responses=answers(
                each.response, *each.failures, content=BYTES if each.body else None, vectors=True,
                failed=each.failed,
            ),
        )  # fmt: skip
        for path in each.other_paths:
            made.add_api_route(path, handler, methods=["POST"], include_in_schema=False)
    return made


def add_get(
    made: APIRouter,
    path: str,
    handler: Callable[..., Awaitable[Response]],
    summary: str,
    responses: dict[int | str, dict[str, Any]],
) -> None:
    """Add a route for GET and HEAD that runs no model."""
    made.add_api_route(path, handler, methods=["GET"], summary=summary, responses=responses)
    made.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
