"""Assembles the service: settings in, ASGI application out.

`create_app` builds routes and middleware only; models are opened by the lifespan, so that importing
or documenting the application costs nothing and two applications never share anything.
"""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import cv2
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware

from service import __version__
from service.allocator import settle_allocator
from service.api import (
    administration,
    audit,
    deliveries,
    health,
    models,
    order_answers,
    orders,
    pages,
    problem_types,
    record_schemas,
    results,
    review,
    schemas,
    segment,
    signing_keys,
)
from service.api.auth import check_guards
from service.api.cache import ResultCache
from service.api.documentation import document_guards
from service.api.exact_document import drop_null, restore_examples, say_items
from service.api.example_requests import document_example_requests
from service.api.idempotency import IdempotencyKeys
from service.api.inbound import listening
from service.api.lifecycle import Lifecycle, Phase
from service.api.oidc import TokenVerifier
from service.api.problems import problem_response, register_problem_handlers
from service.api.quota import CallerQuota
from service.api.recording import audit_activation
from service.api.state import ServiceState
from service.api.work import WorkPool
from service.background import delivery, retention
from service.engine import open_engine
from service.errors import DatabaseError, FatalProviderError, KaryonError, RecordsUnavailableError
from service.inference.lanes import plan_lanes, plan_workers
from service.inference.providers import RuntimeOptions
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.session import ModelSession
from service.middleware import (
    AccessLogMiddleware,
    BodyBoundMiddleware,
    ErrorBoundaryMiddleware,
    HeadMiddleware,
    RequestIdMiddleware,
)
from service.provenance.keys import open_keyring
from service.records.database import Database
from service.records.probe import RecordsProbe
from service.records.recorder import Recorder
from service.records.results import SERVICE
from service.roster import Roster
from service.segmenter import Segmenter
from service.settings import Settings
from service.shadow import Shadow
from service.telemetry import Metrics
from service.tracing import Tracing, open_tracing

DESCRIPTION = f"""Segments and counts nuclei in H&E histology.

Send an image to `POST /segment`; `Accept` or `format` chooses JSON, a PNG mask, GeoJSON, CSV, COCO,
FHIR or HL7. Coordinates are `(x, y)` pixels of the image sent, origin top-left. Errors are RFC 9457
problem documents whose types are explained under `/problems`.

{schemas.RESEARCH_USE_ONLY}"""

_THREAD_TURN_S = 0.001
_TAGS = [
    {"name": "segmentation", "description": "Images in, counts and masks out."},
    {"name": "models", "description": "What is loaded, and where it comes from."},
    {"name": "provenance", "description": "How results are verified."},
    {"name": "results", "description": "What was recorded, and the audit trail."},
    {"name": "orders", "description": "What the laboratory asks for."},
    {"name": "operations", "description": "Probes and metrics."},
    {"name": "problems", "description": "What the error types mean."},
]


def open_repository(settings: Settings) -> ModelRepository:
    """Load the models as the settings say. Blocking.

    Raises:
        KaryonError: A model, or the provider or precision asked for, is not as it must be.
    """
    plan = plan_lanes(settings.concurrency, settings.threads, settings.alone_threads)
    return ModelRepository.open(
        settings.models_dir or embedded_models_dir(),
        default=settings.default_model,
        provider=settings.provider,
        precision=settings.precision,
        options=RuntimeOptions(
            threads=plan.threads,
            streams=plan.lanes,
            alone_threads=plan.alone_threads,
            alone_on_openvino=settings.alone_threads > 0,
            device_id=settings.device_id,
            gpu_mem_limit_bytes=settings.gpu_mem_limit_bytes,
            use_tf32=settings.use_tf32,
            engine_cache_dir=settings.engine_cache_dir,
            max_batch_tiles=settings.max_batch_tiles,
        ),
        versions=settings.load_versions,
        pinned=() if settings.shadow_model is None else (settings.shadow_model,),
    )


def open_service(
    settings: Settings,
    metrics: Metrics,
    on_fatal: Callable[[FatalProviderError], None],
    tracing: Tracing | None = None,
) -> ServiceState:
    """Load and warm every model, and prove each on a canary image. Blocking.

    Args:
        settings: The frozen settings.
        metrics: Who counts.
        on_fatal: Called, from any thread, once a device is lost to the process.
        tracing: Who keeps spans; default as the settings say.

    Raises:
        KaryonError: A model, or the provider asked for, is not as it must be.
    """
    settle_allocator()
    tracing = open_tracing(settings) if tracing is None else tracing
    keyring = open_keyring(settings.data_dir, settings.signing_key)
    # OpenCV's own threads would only fight with those of the workers and of the model.
    cv2.setNumThreads(1)
    # A lane that comes back from the model, and the event loop, wait this long for a worker that
    # runs Python: Python's own 5 ms are a tenth of a tile.
    sys.setswitchinterval(_THREAD_TURN_S)
    repository = open_repository(settings)

    def open_segmenter(session: ModelSession) -> tuple[Segmenter, Callable[[], None]]:
        session.on_fatal = on_fatal
        engine = open_engine(session, settings, metrics, tracing)
        return engine.segmenter, engine.batcher.close

    roster = Roster(repository, open_segmenter, metrics)
    shadow = None
    if settings.shadow_model is not None:
        repository.get(settings.shadow_model)  # a misspelt candidate refuses to start
        shadow = Shadow(
            functools.partial(roster.segmenter, settings.shadow_model),
            settings.shadow_share,
            observer=metrics,
            is_idle=lambda: metrics.waiting == metrics.working == 0,
        )
    pool = WorkPool(
        workers=plan_workers(settings.workers),
        max_waiting=settings.max_waiting,
        observer=metrics,
        max_queued_tiles=settings.max_queued_tiles,
        max_decoded_bytes=settings.max_decoded_bytes,
        expected_tile_s=max(canary.duration_ms for canary in roster.canaries) / 1000.0,
    )
    tokens = TokenVerifier.from_settings(settings)
    recorder = _open_recorder(settings, repository)
    keys = None
    if recorder is not None:
        keys = IdempotencyKeys(
            recorder,
            lifetime_s=settings.idempotency_lifetime_s,
            wait_s=settings.idempotency_wait_s,
        )
    return ServiceState(
        settings=settings,
        roster=roster,
        pool=pool,
        cache=ResultCache(settings.cache_bytes, metrics),
        quota=CallerQuota(settings.quota_requests_per_minute),
        tracing=tracing,
        keyring=keyring,
        shadow=shadow,
        recorder=recorder,
        records_probe=None if recorder is None else RecordsProbe(recorder.database),
        idempotency_keys=keys,
        tokens=tokens,
    )


def _open_recorder(settings: Settings, repository: ModelRepository) -> Recorder | None:
    """Open the records and tell the audit trail which models answer from now on."""
    if not settings.records:
        return None
    url = settings.database_url
    database = Database.open(
        None if url is None else url.get_secret_value(),
        settings.data_dir,
        migrate=settings.migrate,
        destinations=[destination.name for destination in settings.deliveries],
    )
    try:
        with database.writing() as transaction:
            for session in repository.all():
                audit_activation(transaction, session, actor=SERVICE)
    except RecordsUnavailableError as error:
        database.close()
        raise DatabaseError(
            "the database cannot be written to; check KARYON_DATABASE_URL, KARYON_DATA_DIR, their"
            " permissions, and the room on the disk"
        ) from error
    return Recorder(database)


def _document(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document with the shapes that answers refer to by hand."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary=app.summary,
        description=app.description,
        license_info=app.license_info,
        contact=app.contact,
        servers=app.servers,
        tags=_TAGS,
        routes=app.routes,
    )
    by_hand: tuple[type[BaseModel], ...] = (
        schemas.SegmentationAnswer,
        schemas.ModelDetail,
        schemas.Problem,
        *record_schemas.ANSWERS,
        *deliveries.ANSWERS,
        *order_answers.ANSWERS,
    )
    _, extra = models_json_schema(
        [
            *((model, "serialization") for model in by_hand),
            (review.ReviewRequest, "validation"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(extra["$defs"])
    drop_null(document)
    restore_examples(document, app.routes)
    document_example_requests(document)
    # FastAPI documents its own shape of 422 for every route with parameters; we never send it.
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            shown = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(shown.get("application/json", "")):
                del operation["responses"]["422"]
    document_guards(document)
    document["components"]["schemas"] = dict(sorted(components.items()))
    say_items(document["components"])
    return document


def create_app(settings: Settings, tracing: Tracing | None = None) -> FastAPI:
    """Create the ASGI application; its lifespan opens the models.

    Args:
        settings: The frozen settings.
        tracing: Who keeps spans; default as the settings say.

    Returns:
        The application. `app.state.lifecycle` tells its phase, `app.state.observer` its metrics.
    """
    metrics = Metrics()
    lifecycle = Lifecycle()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, ServiceState]]:
        try:
            state = await asyncio.to_thread(
                open_service, settings, metrics, lifecycle.fail, tracing
            )
        except KaryonError as error:
            lifecycle.start_up_error = str(error)
            raise
        # A signal during start-up has set the phase already: a process that ends is not ready.
        if lifecycle.phase is Phase.STARTING:
            lifecycle.phase = Phase.READY
        try:
            async with (
                retention(state),
                delivery(state, metrics.deliveries),
                listening(state, lifecycle),
            ):
                yield {"service": state}
        finally:
            lifecycle.phase = Phase.DRAINING
            if state.shadow is not None:
                await state.shadow.close()
            await asyncio.to_thread(state.close)
            if state.recorder is not None:
                await asyncio.to_thread(state.recorder.close)

    app = FastAPI(
        title="Karyon",
        version=__version__,
        summary="Nuclei segmentation and counting in H&E histology",
        description=DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        contact={"name": "The Karyon developers"},
        servers=[{"url": "/", "description": "The service that this document comes from."}],
        lifespan=lifespan,
        # Our own page: FastAPI's loads its scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        # A redirect of a POST would make clients send the image twice.
        redirect_slashes=False,
        middleware=[
            Middleware(RequestIdMiddleware),
            Middleware(AccessLogMiddleware, observer=metrics),
            Middleware(ErrorBoundaryMiddleware, respond=problem_response),
            Middleware(
                BodyBoundMiddleware,
                max_body_bytes=settings.max_body_bytes,
                respond=problem_response,
            ),
            Middleware(HeadMiddleware),
        ],
    )
    app.state.lifecycle = lifecycle
    app.state.observer = metrics
    register_problem_handlers(app)
    for router in (
        segment.router,
        models.router,
        signing_keys.router,
        results.router,
        review.router,
        deliveries.router,
        orders.router,
        audit.router,
        health.router,
        problem_types.router,
        pages.router,
    ):
        check_guards(router)
        app.include_router(router)
    if settings.admin_routes:
        check_guards(administration.router)
        app.include_router(administration.router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    # FastAPI's documented way to extend the document is to replace this method.
    app.openapi = openapi  # type: ignore[method-assign]
    return app
