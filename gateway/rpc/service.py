"""`openclip.v1.ClipService`: each method parses, calls the engine once, and fills a message."""

import asyncio
from collections.abc import AsyncIterator

import grpc

from gateway.admission.permits import Permit
from gateway.pipeline.concurrency import in_thread_if_large
from gateway.pipeline.engine import Engine
from gateway.rpc import convert
from gateway.rpc.calls import Calls, Work, parsed, serialized
from gateway.rpc.stream import EmbedStream
from gateway.rpc.streambatches import StreamCall
from gateway.rpc.streamroom import StreamRoom
from gateway.telemetry.record import HEADER
from openclip_api.v1 import clip_pb2

NAME: str = clip_pb2.DESCRIPTOR.services_by_name["ClipService"].full_name


class ClipService:
    """The methods over one engine."""

    def __init__(self, engine: Engine, calls: Calls, draining: asyncio.Event) -> None:
        self._engine = engine
        self._calls = calls
        self._draining = draining

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods, as a server takes them."""
        unary = self._calls.unary
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Embed": unary(clip_pb2.EmbedRequest, self.embed),
                "EmbedStream": grpc.stream_stream_rpc_method_handler(
                    self.embed_stream, None, serialized
                ),
                "Classify": unary(clip_pb2.ClassifyRequest, self.classify, images=True),
                "Similarity": unary(clip_pb2.SimilarityRequest, self.similarity, images=True),
                "Rerank": unary(clip_pb2.RerankRequest, self.rerank),
                "ListModels": unary(clip_pb2.ListModelsRequest, self.list_models),
            },
        )

    async def embed(self, message: clip_pb2.EmbedRequest, work: Work) -> clip_pb2.EmbedResponse:
        """Embed texts and images, mixed as they come."""
        embedded = await work.run(self._engine.embed(convert.embed(message), work.record))
        return convert.embed_response(embedded)

    async def embed_stream(self, messages: object, context: grpc.aio.ServicerContext) -> None:
        """Embed any number of items; see `EmbedStream`.

        While a stream sends, and until what it sent is answered, it holds one permit, and room for
        all the items and bytes of its window.
        """
        config = self._calls.config

        async def received(room: StreamRoom) -> AsyncIterator[clip_pb2.EmbedStreamRequest]:
            async def admit(data: bytes) -> None:
                await room.enter(self._calls.size(clip_pb2.EmbedStreamRequest, data))

            while (data := await self._calls.incoming.read(context, admit=admit)) is not None:
                message = parsed(clip_pb2.EmbedStreamRequest, data)
                del data
                yield message
                del message

        async with self._calls.answering(context, "EmbedStream") as (record, account):
            await context.send_initial_metadata(((HEADER, record.request_id),))

            def permit(size: int) -> Permit:
                size += config.stream_window_bytes
                return self._calls.admission.permit(
                    size, config.stream_window_items, client=record.client
                )

            with StreamRoom(permit, config.timeout_s) as room:
                call = StreamCall(
                    self._engine, config, room, context.time_remaining, self._draining, record,
                    account,
                )  # fmt: skip
                await EmbedStream(call, context.write).run(received(room))

    async def classify(
        self, message: clip_pb2.ClassifyRequest, work: Work
    ) -> clip_pb2.ClassifyResponse:
        """Zero-shot classification."""
        classified = await work.run(self._engine.classify(convert.classify(message), work.record))
        values = sum(map(len, classified.predictions))
        return await in_thread_if_large(convert.classify_response, classified, values=values)

    async def similarity(
        self, message: clip_pb2.SimilarityRequest, work: Work
    ) -> clip_pb2.SimilarityResponse:
        """Compare every image with every text."""
        compared = await work.run(self._engine.similarity(convert.similarity(message), work.record))
        values = compared.cosine.size
        return await in_thread_if_large(convert.similarity_response, compared, values=values)

    async def rerank(self, message: clip_pb2.RerankRequest, work: Work) -> clip_pb2.RerankResponse:
        """Order documents by their likeness to a query."""
        ranked = await work.run(self._engine.rerank(convert.rerank(message), work.record))
        return convert.rerank_response(ranked)

    async def list_models(
        self, message: clip_pb2.ListModelsRequest, work: Work
    ) -> clip_pb2.ListModelsResponse:
        """The served models."""
        served = self._engine.models
        models = [convert.model(served, each.manifest) for each in served]
        return clip_pb2.ListModelsResponse(models=models)
