"""Traces of requests and batches: what the service asks for, and the tracing that does nothing.

```
 request A ───┬─ queue ─ decoding ─ tiling ─ inference ─ separation ─ ... ─ encoding
              └───────────────────────────────▲ link
 batch (2 tiles) ─────────────────────────────┤
              ┌───────────────────────────────▼ link
 request B ───┴─ queue ─ decoding ─ ...
```
A span never holds anything of a patient: no file name, query, result, or request id, which a caller
may make of an order number. The log lines of a request hold its trace id instead.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Protocol

from service.errors import ProviderError
from service.inference.ticket import Ticket
from service.settings import Settings


class RequestTrace(Protocol):
    """The span of one request."""

    def stages(self, timings_ms: Mapping[str, float]) -> None:
        """Add the stages that ended just now.

        Args:
            timings_ms: Milliseconds by stage. Cutting and running tiles take turns; their spans
                are laid end to end, each as long as all its turns together.
        """


class Tracing(Protocol):
    """Who keeps the spans."""

    def request(
        self, headers: Mapping[str, str], ticket: Ticket
    ) -> AbstractContextManager[RequestTrace]:
        """Open the span of a request, as a child of the caller's `traceparent` where it sent one.

        Args:
            headers: Of the request; only the W3C Trace Context fields are read.
            ticket: Carries the span to the batches that its tiles run in.
        """

    def batch(self, tickets: Sequence[Ticket], tiles: int) -> AbstractContextManager[None]:
        """Open the span of one run of a model, linked to the requests whose tiles it runs."""

    def close(self) -> None:
        """Send what is kept, and end."""


class _NoTrace:
    def stages(self, timings_ms: Mapping[str, float]) -> None:
        """Keep nothing."""


class NoTracing:
    """Keeps nothing and costs next to nothing: the default."""

    @contextmanager
    def request(
        self,
        headers: Mapping[str, str],  # noqa: ARG002  the protocol's
        ticket: Ticket,  # noqa: ARG002  the protocol's
    ) -> Generator[RequestTrace]:
        """Open nothing."""
        yield _NoTrace()

    @contextmanager
    def batch(
        self,
        tickets: Sequence[Ticket],  # noqa: ARG002  the protocol's
        tiles: int,  # noqa: ARG002  the protocol's
    ) -> Generator[None]:
        """Open nothing."""
        yield

    def close(self) -> None:
        """End nothing."""


def open_tracing(settings: Settings) -> Tracing:
    """Return the tracing that the settings ask for.

    Args:
        settings: `otlp_endpoint` is used.

    Raises:
        ProviderError: Traces are asked for and OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None:
        return NoTracing()
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise ProviderError(
            "KARYON_OTLP_ENDPOINT is set and OpenTelemetry is not installed; install the extra"
            " `otel`"
        )
    # Only here, so that a service without traces neither needs nor loads the packages.
    from service.open_telemetry import OpenTelemetryTracing, otlp_exporter  # noqa: PLC0415

    return OpenTelemetryTracing(otlp_exporter(settings.otlp_endpoint))
