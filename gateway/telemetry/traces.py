"""OpenTelemetry traces: a span for each request, each of its stages, and each call of Triton.

One call of Triton may serve several requests. Its span belongs to the trace of the first, and links
to the others; the `infer` span of each links to it. No span holds text or images.

Needs the extra `otel`, so this is imported only if traces are on.
"""

import time
from collections.abc import Iterable, Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.models.values import CallSpan, Trace
from gateway.telemetry.record import Record

SERVICE = "openclip-gateway"
EXPORT_TIMEOUT_S = 5.0  # bounds how long an absent collector delays the stop
_GRPC_SERVICE = "openclip.v1.ClipService"
_OUR_FAULT = {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"}  # of gRPC's statuses

Headers = Iterable[tuple[str | bytes, str | bytes]]


class Traces:
    """Starts traces of requests, and sends spans to a collector from a separate thread."""

    def __init__(self, endpoint: str) -> None:
        """Send to an OTLP receiver over gRPC. OpenTelemetry's `OTEL_*` variables set all else."""
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
        named = Resource({"service.name": SERVICE}).merge(OTELResourceDetector().detect())
        resource = Resource.create(named.attributes)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gateway")

    def begin(self, record: Record, headers: Headers) -> None:
        """Begin the span of a request, as a child of the caller's span if `headers` name one.

        Set the record's trace id, and its trace and span where the request is sampled.
        """
        carrier = {
            key: value
            for key, value in (tuple(map(_text, header)) for header in headers)
            if key in {"traceparent", "tracestate"}
        }
        parent = TraceContextTextMapPropagator().extract(carrier)
        began = time.time_ns()
        span = self._tracer.start_span(
            record.protocol, parent, kind=SpanKind.SERVER, start_time=began
        )
        context = span.get_span_context()
        record.trace_id = format_trace_id(context.trace_id)
        if span.is_recording():
            offset = began - _nanoseconds(record.started)
            record.trace = record.span = RequestTrace(self._tracer, span, offset)

    def close(self) -> None:
        """Send the waiting spans, and stop."""
        self._provider.shutdown()


class RequestTrace:
    """The span of one request, and its child spans."""

    def __init__(self, tracer: Tracer, span: Span, offset: int) -> None:
        """Wrap a span; `perf_counter` in nanoseconds plus `offset` is nanoseconds since 1970."""
        self._tracer = tracer
        self._span = span
        self._offset = offset

    def stage(self, name: str, start: float, end: float, calls: Sequence[CallSpan] = ()) -> None:
        """See `Trace.stage`."""
        span = self._tracer.start_span(
            name,
            set_span_in_context(self._span),
            links=[call.link() for call in calls if isinstance(call, TritonSpan)],
            start_time=self._offset + _nanoseconds(start),
        )
        span.end(self._offset + _nanoseconds(end))

    def call(self, model: str, rows: int, others: Sequence[Trace]) -> "TritonSpan":
        """See `Trace.call`."""
        span = self._tracer.start_span(
            f"ModelInfer {model}",
            set_span_in_context(self._span),
            kind=SpanKind.CLIENT,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": "inference.GRPCInferenceService",
                "rpc.method": "ModelInfer",
                "openclip.tower": model,
                "openclip.rows": rows,
            },
            links=[
                Link(other._span.get_span_context())
                for other in others
                if isinstance(other, RequestTrace)
            ],
        )
        return TritonSpan(span)

    def end(self, record: Record) -> None:
        """End the span of a request that was answered."""
        self._span.set_attributes(_attributes(record))
        rest = record.protocol == "rest"
        name = f"{record.method} {record.operation}".strip() if rest else record.operation
        self._span.update_name(name)
        if record.code in _OUR_FAULT or (rest and record.code >= "500"):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class TritonSpan:
    """The span of one call of Triton."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """See `CallSpan.traceparent`."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def link(self) -> Link:
        """The link for a span that waited for the call."""
        return Link(self._span.get_span_context())

    def end(self, error: str = "") -> None:
        """See `CallSpan.end`."""
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _attributes(record: Record) -> dict[str, str | int]:
    """The attributes of a request's span, without any of its content."""
    if record.protocol == "rest":
        attributes: dict[str, str | int] = {
            "http.request.method": record.method,
            "http.route": record.operation,
            "http.response.status_code": int(record.code),
        }
    else:
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": _GRPC_SERVICE,
            "rpc.method": record.operation,
            "rpc.response.status_code": record.code,
        }
    attributes |= {
        "openclip.request_id": record.request_id,
        "openclip.model": record.model,
        "openclip.texts": record.texts,
        "openclip.images": record.images,
        "openclip.failed": record.failed,
        "error.type": record.error,
    }
    return {name: value for name, value in attributes.items() if value != ""}


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
