"""Locust users of a running service: `locust -f benchmarks/locustfile.py RestText ...`.

Name the users: RestText, RestImage, ZeroShot, Mixed, GrpcText, GrpcImage, BulkStream.
None of them waits between requests. `--host` is the REST API's URL; `--grpc-address` is the gRPC
API's host:port, and `--clip-model` the model, which may be omitted if only one is served. For a
varying load: `-f benchmarks/locustfile.py,benchmarks/traffic/shapes.py --shape ramp`.
"""

import itertools
import json
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.experimental.gevent
from locust import FastHttpUser, User, constant, events, task
from locust.env import Environment

# Locust runs its users in gevent's green threads, which gRPC must know before its first use.
grpc.experimental.gevent.init_gevent()

from benchmarks.traffic.captions import Captions  # noqa: E402 (as above)
from benchmarks.traffic.requests import EMBED, STREAM, Request, requests, vectors  # noqa: E402
from openclip_api.v1 import clip_pb2  # noqa: E402

STREAM_MESSAGE_ITEMS = 16
STREAM_ITEMS = 256  # of one stream, which counts as one request

seeds = itertools.count(1)  # each user of this process gets its own captions


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_arguments(parser: ArgumentParser) -> None:
    """Add this file's options to Locust's."""
    parser.add_argument("--grpc-address", default="127.0.0.1:8081", help="gRPC API's host:port")
    parser.add_argument("--clip-model", default="", help="id of the model")
    parser.add_argument("--caption-seed", type=int, default=0, help="seed of the captions")
    parser.add_argument("--shape", default="ramp", help="ramp or spike; needs shapes.py")
    parser.add_argument("--totals", default="", help="JSON file for the figures of the run")


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write_totals(environment: Environment) -> None:
    """Write the totals: Locust's own CSV files may lack the last second."""
    path, total = environment.parsed_options.totals, environment.stats.total
    if path:
        figures = {
            "per_second": total.total_rps,
            "p50_ms": total.get_response_time_percentile(0.50),
            "p95_ms": total.get_response_time_percentile(0.95),
            "p99_ms": total.get_response_time_percentile(0.99),
            "requests": total.num_requests,
            "errors": total.num_failures,
        }
        Path(path).write_text(json.dumps(figures))


class _Rest(FastHttpUser):  # type: ignore[misc]  # Locust is untyped here
    """Sends one kind of request over REST."""

    abstract = True
    wait_time = constant(0)
    network_timeout = connection_timeout = 120.0  # seconds
    kind = ""

    def on_start(self) -> None:
        """Prepare the requests."""
        self.requests: Iterator[Request] = _requests(self, self.kind)

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """Send one request; Locust counts any status of 400 or more as a failure."""
        request = next(self.requests)
        headers = {"content-type": request.content_type}
        name = request.path.partition("?")[0]
        self.client.post(request.path, data=request.body, headers=headers, name=name)


class RestText(_Rest):
    """One caption a request."""

    kind = "rest-text"


class RestImage(_Rest):
    """One photo a request, as the body."""

    kind = "rest-image"


class ZeroShot(_Rest):
    """One photo and ten labels a request."""

    kind = "zero-shot"


class Mixed(_Rest):
    """Captions, photos and classifications, 6 to 3 to 1."""

    kind = "mixed"


class _Grpc(User):  # type: ignore[misc]  # Locust is untyped here
    """Calls the gRPC API; each user has its own connection."""

    abstract = True
    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        address = self.environment.parsed_options.grpc_address
        self.channel: Any = grpc.insecure_channel(address, options)

    def on_stop(self) -> None:
        """Disconnects."""
        self.channel.close()

    def timed(self, name: str, call: Callable[[], int]) -> None:
        """Make a call and report it; the call returns the bytes of its answer."""
        start = time.perf_counter()
        length, failure = 0, None
        try:
            length = call()
        except (grpc.RpcError, ValueError) as error:
            failure = error
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=(time.perf_counter() - start) * 1000,
            response_length=length,
            exception=failure,
            context={},
        )


class _GrpcEmbed(_Grpc):
    abstract = True
    kind = ""

    def on_start(self) -> None:
        """Connect, and prepare the requests."""
        super().on_start()
        self.embed: Any = self.channel.unary_unary(EMBED)
        self.requests: Iterator[Request] = _requests(self, self.kind)

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """One call."""
        request = next(self.requests)

        def call() -> int:
            answer: bytes = self.embed(request.body, timeout=120)
            if vectors(answer) != request.items:
                raise ValueError("the answer lacks vectors")
            return len(answer)

        self.timed(f"Embed ({self.kind})", call)


class GrpcText(_GrpcEmbed):
    """One caption a call."""

    kind = "grpc-text"


class GrpcImage(_GrpcEmbed):
    """One photo a call."""

    kind = "grpc-image"


class BulkStream(_Grpc):
    """Streams of 256 captions each."""

    def on_start(self) -> None:
        """Connect."""
        super().on_start()
        self.embed_stream: Any = self.channel.stream_stream(
            STREAM,
            clip_pb2.EmbedStreamRequest.SerializeToString,
            clip_pb2.EmbedStreamResponse.FromString,
        )
        self.captions = Captions(_seed(self))

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """Run one stream until every item has its result."""
        model = self.environment.parsed_options.clip_model
        messages = [
            clip_pb2.EmbedStreamRequest(items=self.items(first))
            for first in range(0, STREAM_ITEMS, STREAM_MESSAGE_ITEMS)
        ]
        messages[0].options.model = model

        def call() -> int:
            length = embedded = 0
            for answer in self.embed_stream(iter(messages), timeout=600):
                length += answer.ByteSize()
                embedded += sum(result.HasField("embedding") for result in answer.results)
            if embedded != STREAM_ITEMS:
                raise ValueError(f"{embedded} of {STREAM_ITEMS} items were answered")
            return length

        self.timed(f"EmbedStream ({STREAM_ITEMS} captions)", call)

    def items(self, first: int) -> list[clip_pb2.StreamItem]:
        """The captions of one message, numbered from `first`."""
        return [
            clip_pb2.StreamItem(id=str(number), item=clip_pb2.Item(text=caption))
            for number, caption in enumerate(self.captions.take(STREAM_MESSAGE_ITEMS), first)
        ]


def _requests(user: User, kind: str) -> Iterator[Request]:
    return requests(kind, user.environment.parsed_options.clip_model, _seed(user))


def _seed(user: User) -> int:
    seed: int = user.environment.parsed_options.caption_seed
    return seed * 100_000 + next(seeds)
