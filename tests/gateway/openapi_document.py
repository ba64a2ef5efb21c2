"""`make openapi` and `make check`: prints the document that a gateway with default settings serves.

Triton is not needed: nothing is embedded.
"""

import asyncio
import sys

import orjson

from gateway.app import create_app, load
from gateway.errors import Unavailable
from gateway.inference.client import Call, FakeInferClient
from gateway.models.values import Vectors
from gateway.settings import Settings


def embed_nothing(_: Call) -> Vectors:
    raise Unavailable("there is no Triton")


async def document() -> bytes:
    settings = Settings.model_construct(grpc_port=0)  # those of the environment do not count
    app = create_app(settings, load(settings), lambda _: FakeInferClient(embed_nothing))
    async with app.router.lifespan_context(app):  # adds the routes
        return orjson.dumps(app.openapi(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.stdout.buffer.write(asyncio.run(document()))
