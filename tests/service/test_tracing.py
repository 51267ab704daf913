"""Traces through a batch, with the real SDK: children, links, and nothing of a patient."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.errors import ProviderError
from service.inference.ticket import Ticket
from service.settings import Settings
from service.tracing import NoTracing, open_tracing

pytest.importorskip("opentelemetry.sdk", reason="needs the extra `otel`")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.open_telemetry import OpenTelemetryTracing

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {
    "Content-Type": "image/png",
    "X-Request-ID": "order-of-Jane-Doe",
    "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01",
}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def spans_of(
    exporter: InMemorySpanExporter, tiny_models_dir: object, image: bytes
) -> tuple[int, Sequence[ReadableSpan]]:
    settings = Settings.model_validate(
        {"models_dir": tiny_models_dir, "default_model": "tiny", "provider": "cpu", "threads": 1}
    )
    with TestClient(create_app(settings, OpenTelemetryTracing(exporter))) as client:
        response = client.post("/segment?mpp=0.25", content=image, headers=HEADERS)
    return response.status_code, exporter.get_finished_spans()


def test_a_request_has_its_stages_and_its_batch_links_to_it(
    exporter: InMemorySpanExporter, tiny_models_dir: object, test_data: Path
) -> None:
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    status, spans = spans_of(exporter, tiny_models_dir, image)
    assert status == 200
    request = next(span for span in spans if span.name == "POST /segment")
    assert request.context is not None
    assert f"{request.context.trace_id:032x}" == TRACE_ID
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT_ID
    children = [
        span.name
        for span in spans
        if span.parent and span.parent.span_id == request.context.span_id
    ]
    assert children[0] == "queue"
    assert {"decoding", "inference", "separation", "encoding"} <= set(children)
    linked = [span for span in spans if span.name == "batch" and span.links]
    assert [link.context.span_id for span in linked for link in span.links] == [
        request.context.span_id
    ]
    assert linked[0].attributes == {"karyon.batch.tiles": 1}
    written = "".join(span.to_json() for span in spans)
    assert "Jane" not in written
    assert "mpp" not in written


def test_a_refused_request_is_an_error_without_its_message(
    exporter: InMemorySpanExporter, tiny_models_dir: object
) -> None:
    status, spans = spans_of(exporter, tiny_models_dir, b"Jane Doe is no image")
    assert status == 415
    request = next(span for span in spans if span.name == "POST /segment")
    assert request.attributes is not None
    assert request.attributes["error.type"] == "UnreadableImageError"
    assert not request.status.is_ok
    assert not request.events
    assert "Jane" not in request.to_json()


def test_a_batch_links_each_of_its_requests_once(exporter: InMemorySpanExporter) -> None:
    tracing = OpenTelemetryTracing(exporter)
    first, second = Ticket(), Ticket("stat")
    with (
        tracing.request({}, first),
        tracing.request({}, second),
        tracing.batch([first, first, second], 3),
    ):
        pass
    tracing.close()
    batch = next(span for span in exporter.get_finished_spans() if span.name == "batch")
    requests = [span for span in exporter.get_finished_spans() if span.name == "POST /segment"]
    assert {link.context.span_id for link in batch.links} == {
        span.context.span_id for span in requests if span.context
    }
    assert len(batch.links) == 2


def test_traces_are_off_by_default_and_refused_without_their_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(open_tracing(Settings()), NoTracing)
    monkeypatch.setattr("service.tracing.find_spec", lambda _: None)
    with pytest.raises(ProviderError, match="install the extra `otel`"):
        open_tracing(Settings(otlp_endpoint="http://localhost:4318/v1/traces"))


def test_the_exporter_is_made_from_the_setting() -> None:
    tracing = open_tracing(Settings(otlp_endpoint="http://localhost:9/v1/traces"))
    assert isinstance(tracing, OpenTelemetryTracing)
    tracing.close()
