"""Traces by OpenTelemetry (the extra `otel`), sent to a collector over OTLP/HTTP."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, format_trace_id
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.inference.ticket import Ticket

_ORDER = ("queue", "lookup", "decoding", "tiling", "inference", "separation", "measurement")
_NANOSECONDS_PER_MS = 1_000_000


class SpanTrace:
    """The open span of a request."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def stages(self, timings_ms: Mapping[str, float]) -> None:
        """Add a child span for each stage; see `service.tracing.RequestTrace`."""
        rest = [stage for stage in timings_ms if stage not in _ORDER and stage != "total"]
        present = [stage for stage in _ORDER if stage in timings_ms] + rest
        lengths_ns = [round(timings_ms[stage] * _NANOSECONDS_PER_MS) for stage in present]
        start_ns = time.time_ns() - sum(lengths_ns)
        parent = set_span_in_context(self._span)
        for stage, length_ns in zip(present, lengths_ns, strict=True):
            child = self._tracer.start_span(stage, context=parent, start_time=start_ns)
            start_ns += length_ns
            child.end(start_ns)


class OpenTelemetryTracing:
    """Keeps spans by OpenTelemetry; see `service.tracing.Tracing`."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Start the thread that exports.

        Args:
            exporter: Where the spans go. A collector that does not answer costs spans, never a
                request.
        """
        # A provider of our own, not the global one: several applications may share a process.
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "karyon", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("karyon", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[str, str], ticket: Ticket) -> Generator[SpanTrace]:
        """Open the span of a request."""
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            "POST /segment",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"karyon.priority": ticket.priority},
        )
        ticket.trace = span
        trace_id = format_trace_id(span.get_span_context().trace_id)
        with structlog.contextvars.bound_contextvars(trace_id=trace_id):
            try:
                yield SpanTrace(self._tracer, span)
            except BaseException as error:
                # The class alone: a message may repeat what a caller sent.
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                span.end()

    @contextmanager
    def batch(self, tickets: Sequence[Ticket], tiles: int) -> Generator[None]:
        """Open the span of one run of a model."""
        spans = {id(ticket.trace): ticket.trace for ticket in tickets}.values()
        span = self._tracer.start_span(
            "batch",
            links=[Link(other.get_span_context()) for other in spans if isinstance(other, Span)],
            attributes={"karyon.batch.tiles": tiles},
        )
        try:
            yield
        finally:
            span.end()

    def close(self) -> None:
        """Send what is kept, and end."""
        self._provider.shutdown()


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Return the exporter to an OTLP/HTTP collector.

    Args:
        endpoint: URL of its trace intake, `http://collector:4318/v1/traces`.
    """
    return OTLPSpanExporter(endpoint=endpoint)
