"""What operators see: Prometheus metrics and structured logs.

Neither ever holds anything that could identify a patient: no file names, no query strings, no
pixels, no results by image. Labels are of low cardinality: routes are templates (`/models/{name}`),
never paths.
"""

import logging
import sys
from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector
from prometheus_client import ProcessCollector as _ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from service.settings import Settings

# Around the objective: a 512x512 tile takes tens of milliseconds, a 64-megapixel image a minute.
SECONDS_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
PIXEL_BUCKETS = (65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
BYTE_BUCKETS = (65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The metrics of one application, in a registry of its own.

    A registry per application, not prometheus-client's global one, lets tests and embedding
    programs create several applications in one process.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        _ProcessCollector(namespace="karyon", registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "karyon_http_requests_total",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "karyon_http_request_duration_seconds",
            "Time from the request line to the last byte of the answer.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "karyon_http_requests_in_flight",
            "HTTP requests being answered.",
            registry=self.registry,
        )
        self._problems = Counter(
            "karyon_problems_total",
            "Error answers by problem type; the types are documented under /problems.",
            ["type"],
            registry=self.registry,
        )
        self._stage_seconds = Histogram(
            "karyon_segment_stage_duration_seconds",
            "Time of one stage of a segmentation: queue, decoding, tiling, inference, separation,"
            " measurement, encoding.",
            ["stage"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._images = Counter(
            "karyon_images_segmented_total",
            "Images segmented.",
            ["model", "version", "provider"],
            registry=self.registry,
        )
        self._nuclei = Counter(
            "karyon_nuclei_counted_total",
            "Nuclei counted.",
            ["model", "version"],
            registry=self.registry,
        )
        self._pixels = Histogram(
            "karyon_image_pixels",
            "Pixels of segmented images.",
            buckets=PIXEL_BUCKETS,
            registry=self.registry,
        )
        self._upload_bytes = Histogram(
            "karyon_upload_bytes",
            "Bytes of segmented image files.",
            buckets=BYTE_BUCKETS,
            registry=self.registry,
        )
        self._waiting = Gauge(
            "karyon_queue_waiting",
            "Requests uploading or waiting for a worker.",
            registry=self.registry,
        )
        self._working = Gauge(
            "karyon_queue_working", "Requests on a worker.", registry=self.registry
        )
        self._abandoned = Counter(
            "karyon_requests_abandoned_total",
            "Requests whose client went away before work began; their work was dropped.",
            registry=self.registry,
        )
        self._model_info = Gauge(
            "karyon_model_info",
            "1 for each model that is loaded.",
            ["model", "version", "digest", "provider"],
            registry=self.registry,
        )

    def request_started(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def request_finished(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a request out.

        Args:
            method: HTTP method as sent; unknown ones share one label.
            route: Template of the route, `unmatched` when none.
            status: HTTP status; 499 when the client went away.
            duration_s: Seconds it took.
        """
        self._in_flight.dec()
        label = method if method in KNOWN_METHODS else "other"
        self._requests.labels(label, route, str(status)).inc()
        self._request_seconds.labels(route).observe(duration_s)

    def problem(self, name: str) -> None:
        """Count an error answer of problem type `name`."""
        self._problems.labels(name).inc()

    def queue_changed(self, waiting: int, working: int) -> None:
        """Report the queue as it stands now."""
        self._waiting.set(waiting)
        self._working.set(working)

    def abandoned(self) -> None:
        """Count work that was dropped because its client went away."""
        self._abandoned.inc()

    def model_loaded(self, name: str, version: str, digest: str, provider: str) -> None:
        """Show a loaded model."""
        self._model_info.labels(name, version, digest, provider).set(1)

    def segmented(
        self,
        *,
        model: str,
        version: str,
        provider: str,
        nuclei: int,
        pixels: int,
        upload_bytes: int,
        timings_ms: Mapping[str, float],
    ) -> None:
        """Count one segmentation and time its stages (milliseconds; `total` is left out)."""
        self._images.labels(model, version, provider).inc()
        self._nuclei.labels(model, version).inc(nuclei)
        self._pixels.observe(pixels)
        self._upload_bytes.observe(upload_bytes)
        for stage, milliseconds in timings_ms.items():
            if stage != "total":
                self._stage_seconds.labels(stage).observe(milliseconds / 1000.0)

    def render(self) -> bytes:
        """Return the exposition in Prometheus' text format (`content_type`)."""
        return generate_latest(self.registry)


def configure_logging(settings: Settings) -> None:
    """Send the logs of the service and of its libraries to standard error, one event a line.

    Call it once in a process that is a server; an embedding program keeps its own logging.

    Args:
        settings: `log_level` and `log_format` are used.
    """
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = (
        [
            # Without the values of local variables: those would be somebody's pixels.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
        if as_json
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # uvicorn's chatter at info repeats what our access log and start-up line say.
    # Alembic's tells at each start which kind of database it found.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It warns of every malformed form, which is answered with a problem already.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
