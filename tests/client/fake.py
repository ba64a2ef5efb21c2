"""A ClipService for staged faults: vectors are made of the bytes they stand for."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from openclip_api.v1 import clip_pb2 as pb

DIMENSIONS = 8


def vector_of(content: str | bytes) -> NDArray[np.float32]:
    data = content.encode() if isinstance(content, str) else content
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass
class Fake:
    """The faults to stage, and what came in."""

    fingerprint: str = "f" * 64
    delay_s: float = 0.0  # before each item is answered
    overloaded: dict[str, int] = field(default_factory=dict)  # text -> how often
    break_after: list[int] = field(default_factory=list)  # results, for each stream in turn
    silent_streams: int = 0  # number of streams that never answer
    hold: threading.Event | None = None  # answers wait for it
    refuse: tuple[grpc.StatusCode, str, str] | None = None  # status, code, message of every call
    unary_failures: int = 0  # number of calls that are refused first
    pushback: tuple[str, str] | None = None  # what those calls answer: when to try again
    seen: Counter[bytes] = field(default_factory=Counter)  # contents of streams
    streams: int = 0
    ended_streams: int = 0  # by their clients, with the end of the items
    cancelled: threading.Event = field(default_factory=threading.Event)
    options: list[pb.StreamOptions] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    def embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self._enter(context)
        if self.hold:
            self.hold.wait(300)
        results = [pb.EmbedResult(embedding=embedding(item)) for item in request.input]
        return pb.EmbedResponse(
            results=results, model="fake", fingerprint=self.fingerprint, dimensions=DIMENSIONS
        )

    def list_models(self, _: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        self._enter(context)
        return pb.ListModelsResponse(models=[pb.Model(id="fake", fingerprint=self.fingerprint)])

    def embed_stream(
        self, requests: Iterator[pb.EmbedStreamRequest], context: Any
    ) -> Iterator[pb.EmbedStreamResponse]:
        self._enter(context)
        context.add_callback(self.cancelled.set)
        stream, self.streams = self.streams, self.streams + 1
        left = self.break_after[stream] if stream < len(self.break_after) else None
        for request in requests:
            if request.HasField("options"):
                self.options.append(request.options)
            results: list[pb.StreamResult] = []
            for item in request.items:
                if left == 0:
                    yield self._response(results)
                    context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")
                left = None if left is None else left - 1
                results.append(self._result(item, context))
            if stream >= self.silent_streams:
                yield self._response(results)
        if context.is_active():
            self.ended_streams += 1

    def _enter(self, context: Any) -> None:
        self.metadata = dict(context.invocation_metadata())
        if self.unary_failures:
            self.unary_failures -= 1
            told = (self.pushback,) if self.pushback else ()
            context.set_trailing_metadata((("error-code", "overloaded"), *told))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        if self.refuse:
            status, code, message = self.refuse
            context.set_trailing_metadata((("error-code", code), ("error-param", "model")))
            context.abort(status, message)

    def _response(self, results: list[pb.StreamResult]) -> pb.EmbedStreamResponse:
        return pb.EmbedStreamResponse(
            results=results[::-1], model="fake", fingerprint=self.fingerprint, dimensions=DIMENSIONS
        )

    def _result(self, sent: pb.StreamItem, context: Any) -> pb.StreamResult:
        if self.hold:
            self.hold.wait(300)
        if self.delay_s:
            threading.Event().wait(self.delay_s)
        content = sent.item.image or sent.item.text.encode()
        self.seen[content] += 1
        if self.overloaded.get(sent.item.text, 0):
            self.overloaded[sent.item.text] -= 1
            error = pb.Error(code="overloaded", message="no room", retryable=True)
            return pb.StreamResult(id=sent.id, error=error)
        if content.startswith(b"bad"):
            error = pb.Error(code="invalid_image", message="image: not an image", param="image")
            return pb.StreamResult(id=sent.id, error=error)
        return pb.StreamResult(id=sent.id, embedding=embedding(sent.item))


def embedding(item: pb.Item) -> pb.Embedding:
    vector = vector_of(item.image or item.text)
    return pb.Embedding(vector=vector.tobytes(), truncated=item.text.endswith(" long"))


def handlers(fake: Fake) -> grpc.GenericRpcHandler:
    """The methods that are staged, as a server takes them; others are unimplemented."""
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    staged = {
        "Embed": unary(fake.embed, pb.EmbedRequest.FromString, pb.EmbedResponse.SerializeToString),
        "EmbedStream": stream(
            fake.embed_stream,
            pb.EmbedStreamRequest.FromString,
            pb.EmbedStreamResponse.SerializeToString,
        ),
        "ListModels": unary(
            fake.list_models,
            pb.ListModelsRequest.FromString,
            pb.ListModelsResponse.SerializeToString,
        ),
    }
    service = pb.DESCRIPTOR.services_by_name["ClipService"]
    return grpc.method_handlers_generic_handler(service.full_name, staged)


@contextmanager
def serving(fake: Fake, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Serve at the address that it yields."""
    # Of more than a thousand calls that wait for a thread, gRPC drops some at random.
    pending = [
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 10_000),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=pending)
    server.add_generic_rpc_handlers((handlers(fake),))
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
