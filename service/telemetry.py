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

from service.delivery_metrics import DeliveryMetrics
from service.settings import Settings

# Around the objective: a 512x512 tile takes tens of milliseconds, a 64-megapixel image a minute.
SECONDS_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
PIXEL_BUCKETS = (65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
BYTE_BUCKETS = (65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ShadowMetrics:
    """How a candidate model compares with the served ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.images = Counter(
            "karyon_shadow_images_total",
            "Images of the candidate's share: compared, busy (left out), failed.",
            ["outcome"],
            registry=registry,
        )
        self._nuclei = Counter(
            "karyon_shadow_nuclei_total",
            "Nuclei on the compared images, by who counted.",
            ["model", "version", "counted_by"],
            registry=registry,
        )
        self._difference = Histogram(
            "karyon_shadow_count_difference_ratio",
            "Absolute difference of the two counts of an image, divided by the one answered.",
            ["model", "version"],
            buckets=(0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
            registry=registry,
        )

    def compared(self, model: str, version: str, served: int, candidate: int) -> None:
        """Count one comparison; `model` and `version` are the candidate's."""
        self.images.labels("compared").inc()
        self._nuclei.labels(model, version, "served").inc(served)
        self._nuclei.labels(model, version, "candidate").inc(candidate)
        self._difference.labels(model, version).observe(abs(candidate - served) / max(1, served))


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
            "Time of one stage of a segmentation: queue, decoding, tiling, inference (with its wait"
            " for a lane), separation, measurement, quality, encoding.",
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
            "Requests whose client went away; their work was dropped, or ended between two tiles.",
            registry=self.registry,
        )
        self._refused = Counter(
            "karyon_requests_refused_total",
            "Requests refused before any work, by what was used up: places, tiles, decoded_bytes,"
            " quota.",
            ["reason"],
            registry=self.registry,
        )
        self._deadlines = Counter(
            "karyon_deadlines_exceeded_total",
            "Requests whose X-Request-Timeout-Ms passed before their work was done.",
            registry=self.registry,
        )
        self._cache_lookups = Counter(
            "karyon_cache_lookups_total",
            "Looks into the result cache, by result: hit, miss.",
            ["result"],
            registry=self.registry,
        )
        self._cache_bytes = Gauge(
            "karyon_cache_bytes", "Bytes that the result cache keeps.", registry=self.registry
        )
        self._tiles_queued = Gauge(
            "karyon_tiles_queued", "Tiles that wait for a lane of a model.", registry=self.registry
        )
        self._batch_tiles = Histogram(
            "karyon_batch_tiles",
            "Tiles in one run of a model; always 1 on a CPU.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "karyon_batch_duration_seconds",
            "Time of one run of a model, without the wait for it.",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._model_info = Gauge(
            "karyon_model_info",
            "1 for each model that is loaded.",
            ["model", "version", "digest", "provider", "precision"],
            registry=self.registry,
        )
        self._model_active = Gauge(
            "karyon_model_active",
            "1 for the version that answers to the bare name.",
            ["model", "version"],
            registry=self.registry,
        )
        self._shadow = ShadowMetrics(self.registry)
        self.deliveries = DeliveryMetrics(self.registry)
        self.waiting = 0
        self.working = 0

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
        self.waiting, self.working = waiting, working
        self._waiting.set(waiting)
        self._working.set(working)

    def abandoned(self) -> None:
        """Count work that was dropped because its client went away."""
        self._abandoned.inc()

    def refused(self, reason: str) -> None:
        """Count a request that was refused before any work; `reason` is what was used up."""
        self._refused.labels(reason).inc()

    def deadline_exceeded(self) -> None:
        """Count work that was dropped because its caller's time ran out."""
        self._deadlines.inc()

    def cache_looked_up(self, *, hit: bool) -> None:
        """Count a look into the result cache."""
        self._cache_lookups.labels("hit" if hit else "miss").inc()

    def cache_changed(self, size_bytes: int) -> None:
        """Show the bytes that the result cache keeps."""
        self._cache_bytes.set(size_bytes)

    def tiles_queued(self, change: int) -> None:
        """Add to the tiles that wait for a lane; negative where they wait no longer."""
        self._tiles_queued.inc(change)

    def batch_ran(self, tiles: int, duration_s: float) -> None:
        """Count one run of a model."""
        self._batch_tiles.observe(tiles)
        self._batch_seconds.observe(duration_s)

    def model_loaded(
        self, name: str, version: str, digest: str, provider: str, precision: str
    ) -> None:
        """Show a loaded model."""
        self._model_info.labels(name, version, digest, provider, precision).set(1)

    def model_retired(
        self, name: str, version: str, digest: str, provider: str, precision: str
    ) -> None:
        """Show a model no more."""
        self._model_info.remove(name, version, digest, provider, precision)

    def model_active(self, name: str, version: str, previous: str | None) -> None:
        """Show which version answers to its bare name, and no more which did before."""
        if previous is not None:
            self._model_active.labels(name, previous).set(0)
        self._model_active.labels(name, version).set(1)

    def shadow_compared(self, model: str, version: str, served: int, candidate: int) -> None:
        """Count a comparison of a candidate's count with the one that was answered."""
        self._shadow.compared(model, version, served, candidate)

    def shadow_passed(self, outcome: str) -> None:
        """Count an image that the candidate should have seen: `busy` or `failed`."""
        self._shadow.images.labels(outcome).inc()

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
        library = logging.getLogger(name)
        library.setLevel(max(logging.WARNING, root.level))
        # Whoever was imported before (Streamlit, for one) may have taken these lines for itself.
        library.handlers.clear()
        library.propagate = True
    # It warns of every malformed form, which is answered with a problem already.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
