"""Traces: every stage of a request reaches a collector, below the caller's span, and Triton."""

import asyncio
import contextlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import grpc
import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.errors import InferenceFailed
from gateway.inference.batching import Batcher
from gateway.inference.client import Call, FakeInferClient
from gateway.inference.encoders import image_encoder
from gateway.models.values import Deadline, Timings
from gateway.process.start import StartError, load_settings
from gateway.telemetry.traces import RequestTrace
from openclip_api.v1 import clip_pb2, clip_pb2_grpc
from server.launcher import TritonServer
from tests.conftest import ROOT, SAMPLES, GatewayClient, GatewayFactory, Outside, free_port
from tests.gateway.fakes import unit
from tests.gateway.rpcserver import loaded
from tests.httpserver import Handler, web_server

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID, PARENT_ID = (bytes.fromhex(part) for part in PARENT.split("-")[1:3])
UNSAMPLED = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00"
APART_NS = 1_000_000  # between the clocks of two spans
STAGES = {"fetch", "decode", "tokenize", "queue", "infer", "encode"}
SECRET = "a photo of a very secret circle"  # noqa: S105 - a text that no span may hold


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector that keeps everything."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(  # noqa: N802 - the service's name
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def services(self) -> set[str]:
        return {
            attribute.value.string_value
            for request in self.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


@dataclass
class Relay(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Passes calls on to Triton, and keeps the `traceparent` of each inference."""

    channel: grpc.Channel
    seen: list[str] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method

        def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
            told = dict(context.invocation_metadata()).get("traceparent")
            if method.endswith("/ModelInfer") and told:
                self.seen.append(told)
            answer: bytes = self.channel.unary_unary(method)(data, timeout=30)
            return answer

        return grpc.unary_unary_rpc_method_handler(handle)


@contextlib.contextmanager
def serving(add: Callable[[grpc.Server], None]) -> Iterator[str]:
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads)
        add(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


class Samples(Handler):
    """The samples over HTTP."""

    def do_GET(self) -> None:
        self.answer((SAMPLES / self.path.strip("/")).read_bytes())


@dataclass(frozen=True)
class Traced:
    """What came of a gateway's life, in which it was asked over both protocols."""

    spans: list[Span]
    services: set[str]
    told_triton: list[str]
    log: str

    def roots(self, kind: str) -> list[Span]:
        return [span for span in self.spans if span.name == kind]

    def below(self, root: Span) -> dict[str, list[Span]]:
        found: dict[str, list[Span]] = defaultdict(list)
        for span in self.spans:
            if span.parent_span_id == root.span_id:
                found[span.name].append(span)
        return found


@pytest.fixture(scope="module")
def traced(
    triton: TritonServer,
    start_gateway: GatewayFactory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Traced:
    receiver = Receiver()
    log = tmp_path_factory.mktemp("traces") / "log"
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(triton.addresses.grpc))
        relay = Relay(channel)
        address = stack.enter_context(
            serving(lambda server: server.add_generic_rpc_handlers((relay,)))
        )
        add = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        collector = stack.enter_context(serving(partial(add, receiver)))
        port = stack.enter_context(web_server(Samples))
        with start_gateway(
            Outside(log=log),
            triton_address=address,
            otlp_endpoint=f"http://{collector}",
            log_format="json",
            text_cache_bytes=0,
            fetch_urls="true",
            fetch_private="true",
            fetch_ports=f"[{port}]",
        ) as client:
            ask(client, f"http://127.0.0.1:{port}/red-circle.png")
    return Traced(receiver.spans(), receiver.services(), relay.seen, log.read_text())


def ask(client: GatewayClient, url: str) -> None:
    body = {"input": [SECRET, {"image": url}]}
    answer = client.post("/v1/embeddings", json=body, headers={"traceparent": PARENT})
    assert answer.status_code == httpx.codes.OK, answer.text
    answer = client.post("/v1/embeddings", json=body, headers={"traceparent": UNSAMPLED})
    assert answer.status_code == httpx.codes.OK, answer.text
    assert client.post("/v1/embeddings", json={"input": []}).status_code == 400
    odd = {"traceparent": PARENT, "tracestate": SECRET}
    assert client.get("/livez", headers=odd).status_code == httpx.codes.OK
    with grpc.insecure_channel(client.grpc_address) as channel:
        items = [clip_pb2.Item(text=SECRET), clip_pb2.Item(image_url=url)]
        clip_pb2_grpc.ClipServiceStub(channel).Embed(
            clip_pb2.EmbedRequest(input=items), metadata=(("traceparent", PARENT),)
        )


@pytest.mark.parametrize("name", ["POST /v1/embeddings", "Embed"])
def test_every_stage_is_below_the_callers_span(traced: Traced, name: str) -> None:
    [root] = [span for span in traced.roots(name) if span.parent_span_id == PARENT_ID]
    assert root.trace_id == TRACE_ID
    assert root.kind == Span.SPAN_KIND_SERVER
    below = traced.below(root)
    assert set(below) >= STAGES
    for span in (each for several in below.values() for each in several):
        assert span.trace_id == TRACE_ID
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        # The clocks of the request's span and of its stages are read a moment apart.
        assert root.start_time_unix_nano - APART_NS <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano + APART_NS
    [decode] = below["decode"]
    [fetch] = below["fetch"]
    assert fetch.end_time_unix_nano <= decode.start_time_unix_nano + 1_000


def test_triton_is_told(traced: Traced) -> None:
    calls = [span for span in traced.spans if span.name.startswith("ModelInfer demo.")]
    assert len(calls) == 4  # image and text, over REST and gRPC
    assert all(span.kind == Span.SPAN_KIND_CLIENT for span in calls)
    wanted = {f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01" for span in calls}
    assert set(traced.told_triton) == wanted


def test_infer_is_linked_to_its_call(traced: Traced) -> None:
    calls = {span.span_id for span in traced.spans if span.name.startswith("ModelInfer ")}
    linked = {link.span_id for span in traced.roots("infer") for link in span.links}
    assert linked == calls


def test_what_spans_say(traced: Traced) -> None:
    assert traced.services == {"openclip-gateway"}
    [root] = [s for s in traced.roots("POST /v1/embeddings") if s.parent_span_id == PARENT_ID]
    told = {each.key: each.value for each in root.attributes}
    assert told["http.route"].string_value == "/v1/embeddings"
    assert told["http.response.status_code"].int_value == 200
    assert told["openclip.model"].string_value == "demo"
    assert told["openclip.texts"].int_value == told["openclip.images"].int_value == 1
    [call] = traced.roots("Embed")
    told = {each.key: each.value for each in call.attributes}
    assert told["rpc.response.status_code"].string_value == "OK"
    assert not any(b"secret" in span.SerializeToString() for span in traced.spans)
    assert not any(b"red-circle" in span.SerializeToString() for span in traced.spans)


def test_a_bad_request_is_traced_without_a_parent(traced: Traced) -> None:
    [root] = [span for span in traced.roots("POST /v1/embeddings") if not span.parent_span_id]
    told = {each.key: each.value.string_value for each in root.attributes}
    assert told["error.type"] == "invalid_request"
    assert root.trace_id not in {b"", bytes(16), TRACE_ID}


def test_what_is_not_sampled_and_probes_are_left_out(traced: Traced) -> None:
    assert not any(span.trace_id.hex() == "a" * 32 for span in traced.spans)
    assert not any("livez" in span.name for span in traced.spans)
    assert len(traced.roots("POST /v1/embeddings")) == 2


def test_the_log_names_the_trace(traced: Traced) -> None:
    assert traced.log.count(f'"trace_id":"{TRACE_ID.hex()}"') == 2
    assert f'"trace_id":"{"a" * 32}"' in traced.log
    assert SECRET not in traced.log


async def test_a_joined_call_is_linked_to_all_that_share_it() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    roots = [tracer.start_span(f"request {number}") for number in range(3)]
    batcher = Batcher(FakeInferClient(unit, delay=0.05), calls=1)
    encoder = image_encoder(loaded().models.find("demo").manifest)

    async def run(trace: RequestTrace) -> None:
        rows = [np.zeros((64, 64, 3), np.uint8)]
        timings = Timings(trace=trace)
        await batcher.run(encoder, rows, Deadline.after(30), timings, bulk=False)

    await asyncio.gather(*(run(RequestTrace(tracer, root, 0)) for root in roots))
    spans = exporter.get_finished_spans()
    calls = [span for span in spans if span.name.startswith("ModelInfer")]
    alone, joined = sorted(calls, key=lambda span: len(span.links))
    first, second, third = (root.get_span_context() for root in roots)
    assert parent(alone) == first.span_id
    assert not alone.links
    assert parent(joined) == second.span_id
    assert linked([joined]) == {third.span_id}
    waited = [s for s in spans if s.name == "infer" and parent(s) != first.span_id]
    assert len(waited) == 2
    assert joined.context
    assert linked(waited) == {joined.context.span_id}
    provider.shutdown()


async def test_a_failed_call_says_so() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def broken(call: Call) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.full((1, 1), np.nan, np.float32)

    batcher = Batcher(FakeInferClient(broken), calls=1)
    encoder = image_encoder(loaded().models.find("demo").manifest)
    timings = Timings(trace=RequestTrace(tracer, tracer.start_span("request"), 0))
    rows = [np.zeros((64, 64, 3), np.uint8)]
    with pytest.raises(InferenceFailed, match="answered"):
        await batcher.run(encoder, rows, Deadline.after(30), timings, bulk=False)
    await asyncio.sleep(0)
    [call] = [s for s in exporter.get_finished_spans() if s.name.startswith("ModelInfer")]
    assert not call.status.is_ok
    assert dict(call.attributes or {})["error.type"] == "InferenceFailed"
    provider.shutdown()


def test_a_collector_that_is_away_costs_no_answers(
    triton: TritonServer, start_gateway: GatewayFactory
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with start_gateway(triton_address=triton.addresses.grpc, otlp_endpoint=address) as client:
        for number in range(20):
            answer = client.post("/v1/embeddings", json={"input": f"text {number}"})
            assert answer.status_code == httpx.codes.OK  # and it stops in time, with 0


@pytest.mark.slow
def test_without_an_endpoint_the_sdk_is_not_loaded() -> None:
    program = (
        "import sys, gateway.app, gateway.settings;"
        "gateway.app.create_app(s := gateway.settings.Settings(), gateway.app.load(s));"
        "print('opentelemetry.sdk.trace' in sys.modules, 'gateway.telemetry.traces' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert ran.stdout.strip() == "False False"


def test_without_the_extra_the_gateway_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not there
    monkeypatch.delitem(sys.modules, "gateway.telemetry.traces")
    with pytest.raises(StartError, match=r"GATEWAY_OTLP_ENDPOINT: .* install the extra `otel`"):
        load_settings()


def parent(span: ReadableSpan) -> int:
    return span.parent.span_id if span.parent else 0


def linked(spans: Sequence[ReadableSpan]) -> set[int]:
    return {link.context.span_id for span in spans for link in span.links}
