"""Assembles the service: settings in, ASGI application out.

`create_app` builds routes and middleware only; models are opened by the lifespan, so that importing
or documenting the application costs nothing and two applications never share anything.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import cv2
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware

from service import __version__
from service.api import administration, health, models, pages, problem_types, schemas, segment
from service.api.cache import ResultCache
from service.api.lifecycle import Lifecycle, Phase
from service.api.problems import problem_response, register_problem_handlers
from service.api.quota import CallerQuota
from service.api.state import ServiceState
from service.api.work import WorkPool
from service.engine import open_engine
from service.errors import FatalProviderError, KaryonError
from service.inference.lanes import plan_lanes, plan_workers
from service.inference.providers import RuntimeOptions
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.session import ModelSession
from service.middleware import (
    AccessLogMiddleware,
    BodyBoundMiddleware,
    ErrorBoundaryMiddleware,
    RequestIdMiddleware,
)
from service.roster import Roster
from service.segmenter import Segmenter
from service.settings import Settings
from service.shadow import Shadow
from service.telemetry import Metrics
from service.tracing import Tracing, open_tracing

DESCRIPTION = f"""Segments and counts nuclei in H&E histology.

Send an image to `POST /segment`; `Accept` chooses between JSON and a PNG mask. Coordinates are
`(x, y)` pixels of the image sent, origin top-left. Errors are RFC 9457 problem documents whose
types are explained under `/problems`.

{schemas.RESEARCH_USE_ONLY}"""

_TAGS = [
    {"name": "segmentation", "description": "Images in, counts and masks out."},
    {"name": "models", "description": "What is loaded, and where it comes from."},
    {"name": "operations", "description": "Probes and metrics."},
    {"name": "problems", "description": "What the error types mean."},
]


def open_repository(settings: Settings) -> ModelRepository:
    """Load the models as the settings say. Blocking.

    Raises:
        KaryonError: A model, or the provider or precision asked for, is not as it must be.
    """
    return ModelRepository.open(
        settings.models_dir or embedded_models_dir(),
        default=settings.default_model,
        provider=settings.provider,
        precision=settings.precision,
        options=RuntimeOptions(
            threads=plan_lanes(settings.concurrency, settings.threads).threads,
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
    tracing = open_tracing(settings) if tracing is None else tracing
    # OpenCV's own threads would only fight with those of the workers and of the model.
    cv2.setNumThreads(1)
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
    return ServiceState(
        settings=settings,
        roster=roster,
        pool=pool,
        cache=ResultCache(settings.cache_bytes, metrics),
        quota=CallerQuota(settings.quota_requests_per_minute),
        tracing=tracing,
        shadow=shadow,
    )


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop the `null` of an optional parameter: a query string has no way to say it."""
    choices: list[dict[str, Any]] = [
        choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"
    ]
    if len(choices) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return choices[0] | rest


def _document(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document with the shapes that answers refer to by hand."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary=app.summary,
        description=app.description,
        license_info=app.license_info,
        tags=_TAGS,
        routes=app.routes,
    )
    _, extra = models_json_schema(
        [
            (model, "serialization")
            for model in (schemas.SegmentationAnswer, schemas.ModelDetail, schemas.Problem)
        ],
        ref_template="#/components/schemas/{model}",
    )
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(extra["$defs"])
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
    # FastAPI documents its own shape of 422 for every route with parameters; we never send it.
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            shown = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(shown.get("application/json", "")):
                del operation["responses"]["422"]
    document["components"]["schemas"] = dict(sorted(components.items()))
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
            yield {"service": state}
        finally:
            lifecycle.phase = Phase.DRAINING
            if state.shadow is not None:
                await state.shadow.close()
            await asyncio.to_thread(state.close)

    app = FastAPI(
        title="Karyon",
        version=__version__,
        summary="Nuclei segmentation and counting in H&E histology",
        description=DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
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
        ],
    )
    app.state.lifecycle = lifecycle
    app.state.observer = metrics
    register_problem_handlers(app)
    for router in (
        segment.router,
        models.router,
        health.router,
        problem_types.router,
        pages.router,
    ):
        app.include_router(router)
    if settings.admin_routes:
        app.include_router(administration.router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    # FastAPI's documented way to extend the document is to replace this method.
    app.openapi = openapi  # type: ignore[method-assign]
    return app
