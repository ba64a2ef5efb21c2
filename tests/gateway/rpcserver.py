"""A gRPC server in this process over any client of Triton, for tests that stage faults."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from gateway.access.access import Access
from gateway.admission.limits import RequestLimits
from gateway.admission.permits import Admission, Room
from gateway.app import Loaded, load
from gateway.images.preprocess import Decoder, ImageLimits
from gateway.inference.batching import Batcher
from gateway.inference.client import InferClient
from gateway.models.registry import Model
from gateway.models.values import Deadline, Embedded, Timings
from gateway.operations.readiness import Readiness
from gateway.pipeline import requests
from gateway.pipeline.cache import VectorCache
from gateway.pipeline.classifiers import Classifiers
from gateway.pipeline.concurrency import Threads
from gateway.pipeline.embedding import Embedder, Encoders
from gateway.pipeline.engine import Engine
from gateway.pipeline.prepare import Preparer
from gateway.pipeline.requests import Plan
from gateway.rpc.config import RpcConfig
from gateway.rpc.server import RpcServer
from gateway.settings import Settings
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import Observer
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from tests.conftest import REPOSITORY
from tests.items import RED_CIRCLE

LIMITS = RequestLimits(max_items=256, max_labels=100, max_prompts=200, max_text_characters=5_000)


class Watched(Engine):
    """Notes how many items it was asked to embed at a time, and how often that was cut off."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.asked: list[int] = []
        self.cancelled = 0

    def embed(
        self, request: requests.Embed, timings: Timings, model: Model | None = None
    ) -> Plan[Embedded]:
        plan = super().embed(request, timings, model)

        async def run(deadline: Deadline) -> Embedded:
            self.asked.append(len(request.items))
            try:
                return await plan.run(deadline)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        return Plan(plan.cost, run)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs, and what tests look at."""

    server: RpcServer
    engine: Watched
    admission: Admission
    port: int
    channel: grpc.aio.Channel
    stub: Any  # grpc's stub for asyncio


@functools.cache
def loaded() -> Loaded:
    return load(Settings(model_repository=REPOSITORY))


@asynccontextmanager
async def served(
    client: InferClient,
    *,
    limits: RequestLimits = LIMITS,
    max_inflight: int = 64,
    port: int = 0,
    access: Access | None = None,
    **config: Any,
) -> AsyncIterator[Served]:
    """A server on a free port, and a client of it; both stopped when the block ends."""
    usual: dict[str, Any] = {
        "max_message_bytes": 2**20, "inflight_bytes": 2**29, "limits": limits, "timeout_s": 30.0
    }  # fmt: skip
    settings = RpcConfig(**(usual | config))
    threads = Threads(2)
    cache = VectorCache(0)
    preparer = Preparer(threads, limits, Decoder(ImageLimits(2**20, 1_000_000, 1_000_000)))
    encoder = Encoders(Batcher(client, 2), cache)
    models, sets = loaded().models, loaded().sets
    classifiers = Classifiers(models, sets, preparer, encoder, cache)
    engine = Watched(models, sets, limits, Embedder(preparer, encoder), classifiers)
    admission = Admission(Room(max_inflight, 100_000, 2**30))
    readiness, observer = Readiness(models, client, classifiers), Observer(Metrics())
    server = RpcServer(engine, admission, readiness, observer, settings, access)
    try:
        port = await server.start("127.0.0.1", port)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = clip_pb2_grpc.ClipServiceStub(channel)
            yield Served(server, engine, admission, port, channel, stub)
    finally:
        await server.stop(0)
        await threads.close()


def text(content: str) -> clip_pb2.Item:
    return clip_pb2.Item(text=content)


def image(content: bytes = RED_CIRCLE) -> clip_pb2.Item:
    return clip_pb2.Item(image=content)


def metadata(error: grpc.aio.AioRpcError) -> dict[str, str]:
    return {key: str(value) for key, value in error.trailing_metadata()}
