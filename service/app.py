"""Assembles the service: settings in, ASGI application out.

`create_app` builds routes and middleware only; models are opened by the lifespan, so that importing
or documenting the application costs nothing and two applications never share anything.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from numpy.typing import NDArray
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware

from service import __version__
from service.api import (
    audit,
    health,
    models,
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
from service.api.documentation import document_guards
from service.api.examples import SEGMENTATION_EXAMPLE
from service.api.idempotency import IdempotencyKeys
from service.api.lifecycle import Lifecycle, Phase
from service.api.oidc import TokenVerifier
from service.api.problems import problem_response, register_problem_handlers
from service.api.state import Canary, ServiceState, model_key
from service.api.work import WorkPool
from service.errors import KaryonError, ModelContractError
from service.inference.repository import ModelRepository, embedded_models_dir
from service.middleware import (
    AccessLogMiddleware,
    BodyBoundMiddleware,
    ErrorBoundaryMiddleware,
    RequestIdMiddleware,
)
from service.provenance.keys import open_keyring
from service.records.database import Database
from service.records.recorder import Recorder
from service.records.results import SERVICE
from service.records.retention import keep_purging
from service.segmenter import Segmenter
from service.settings import Settings
from service.telemetry import Metrics

DESCRIPTION = f"""Segments and counts nuclei in H&E histology.

Send an image to `POST /segment`; `Accept` or `format` chooses JSON, a PNG mask, GeoJSON, CSV, COCO,
FHIR or HL7. Coordinates are `(x, y)` pixels of the image sent, origin top-left. Errors are RFC 9457
problem documents whose types are explained under `/problems`.

{schemas.RESEARCH_USE_ONLY}"""

_TAGS = [
    {"name": "segmentation", "description": "Images in, counts and masks out."},
    {"name": "models", "description": "What is loaded, and where it comes from."},
    {"name": "results", "description": "What was recorded, and the audit trail."},
    {"name": "provenance", "description": "How results are verified."},
    {"name": "operations", "description": "Probes and metrics."},
    {"name": "problems", "description": "What the error types mean."},
]


def _canary_pixels(side_px: int) -> NDArray[np.uint8]:
    """Draw stained discs on a pale ground: (side, side, 3) uint8 RGB."""
    pixels = np.full((side_px, side_px, 3), (236, 214, 228), np.uint8)
    step_px = max(16, side_px // 8)
    for y in range(step_px // 2, side_px, step_px):
        for x in range(step_px // 2, side_px, step_px):
            cv2.circle(pixels, (x, y), step_px // 4, (84, 52, 120), thickness=cv2.FILLED)
    return pixels


def _sing(segmenter: Segmenter, name: str, provider: str, side_px: int) -> Canary:
    """Segment the canary image, once to warm everything up and once to time it.

    Raises:
        ModelContractError: The result has not the shape of the image.
    """
    pixels = _canary_pixels(side_px)
    segmenter.segment(pixels)
    start_s = perf_counter()
    labels = segmenter.segment(pixels).labels
    duration_ms = (perf_counter() - start_s) * 1000.0
    if labels.shape != (side_px, side_px):
        raise ModelContractError(f"{name} answers a {side_px} px image with {labels.shape}.")
    return Canary(model=name, provider=provider, duration_ms=round(duration_ms, 3))


def open_service(settings: Settings, metrics: Metrics) -> ServiceState:
    """Load and warm every model, and prove each on a canary image. Blocking.

    Raises:
        KaryonError: A model, or the provider asked for, is not as it must be.
    """
    keyring = open_keyring(settings.data_dir, settings.signing_key)
    repository = ModelRepository.open(
        settings.models_dir or embedded_models_dir(),
        default=settings.default_model,
        provider=settings.provider,
        threads=settings.threads,
    )
    segmenters: dict[str, Segmenter] = {}
    canaries: list[Canary] = []
    for session in repository.all():
        key = model_key(session)
        session.warm_up()
        segmenters[key] = Segmenter(
            session,
            max_batch_tiles=settings.max_batch_tiles,
            max_pixels=settings.max_pixels,
        )
        canaries.append(
            _sing(segmenters[key], key, session.provider, session.contract.input.tile_px)
        )
        metrics.model_loaded(
            session.contract.name, session.contract.version, session.digest, session.provider
        )
    pool = WorkPool(
        workers=settings.workers,
        max_waiting=settings.max_waiting,
        observer=metrics,
        expected_service_s=max(canary.duration_ms for canary in canaries) / 1000.0,
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
        settings,
        repository,
        segmenters,
        pool,
        tuple(canaries),
        keyring,
        recorder=recorder,
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
    )
    with database.writing() as transaction:
        for session in repository.all():
            transaction.audit(
                "model.activated",
                actor=SERVICE,
                subject=model_key(session),
                details={"digest": session.digest, "provider": session.provider},
            )
    return Recorder(database)


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
    by_hand: tuple[type[BaseModel], ...] = (
        schemas.SegmentationAnswer,
        schemas.ModelDetail,
        schemas.Problem,
        *record_schemas.ANSWERS,
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
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
    # FastAPI drops the null members of examples.
    answered = document["paths"]["/segment"]["post"]["responses"]["200"]["content"]
    answered["application/json"]["example"] = SEGMENTATION_EXAMPLE
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
    return document


@asynccontextmanager
async def _retention(state: ServiceState) -> AsyncIterator[None]:
    """Purge what is too old while the service runs."""
    days = (state.settings.retention_days, state.settings.image_retention_days)
    if state.recorder is None or days == (None, None):
        yield
        return
    task = asyncio.create_task(
        keep_purging(state.recorder, result_days=days[0], image_days=days[1])
    )
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def create_app(settings: Settings) -> FastAPI:
    """Create the ASGI application; its lifespan opens the models.

    Args:
        settings: The frozen settings.

    Returns:
        The application. `app.state.lifecycle` tells its phase, `app.state.observer` its metrics.
    """
    metrics = Metrics()
    lifecycle = Lifecycle()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, ServiceState]]:
        try:
            state = await asyncio.to_thread(open_service, settings, metrics)
        except KaryonError as error:
            lifecycle.start_up_error = str(error)
            raise
        # A signal during start-up has set the phase already: a process that ends is not ready.
        if lifecycle.phase is Phase.STARTING:
            lifecycle.phase = Phase.READY
        try:
            async with _retention(state):
                yield {"service": state}
        finally:
            lifecycle.phase = Phase.DRAINING
            await asyncio.to_thread(state.pool.close)
            if state.recorder is not None:
                await asyncio.to_thread(state.recorder.close)

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
        results.router,
        review.router,
        audit.router,
        signing_keys.router,
        health.router,
        problem_types.router,
        pages.router,
    ):
        check_guards(router)
        app.include_router(router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    # FastAPI's documented way to extend the document is to replace this method.
    app.openapi = openapi  # type: ignore[method-assign]
    return app
