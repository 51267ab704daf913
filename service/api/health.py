"""Probes and metrics. All `async`, none on the pools of the requests: a busy one fails no probe."""

from fastapi import APIRouter
from starlette.responses import Response

from service.api import schemas
from service.api.auth import MetricsCaller
from service.api.documentation import ANSWERED, REQUEST_ID_HEADER, problem_answers
from service.api.lifecycle import Phase
from service.api.state import LifecycleDependency, ObserverDependency, StateDependency
from service.errors import NotReadyError

router = APIRouter(tags=["operations"])


@router.get(
    "/health/live",
    operation_id="getLiveness",
    summary="Is the process alive?",
    responses={**ANSWERED, **problem_answers("internal-error")},
)
async def get_liveness() -> schemas.Liveness:
    """Answers as long as the event loop turns; a failure means: restart the process."""
    return schemas.Liveness(status="live")


@router.get(
    "/health/ready",
    operation_id="getReadiness",
    summary="Does the service take work?",
    responses={**ANSWERED, **problem_answers("internal-error", "not-ready")},
)
async def get_readiness(state: StateDependency) -> schemas.Readiness:
    """Ready once every model is warm and has segmented a canary image; not while draining.

    Nor while the records database gives no answer within a second: no result could be filed.
    """
    if state.records_probe is not None:
        await state.records_probe.check()
    return schemas.Readiness(
        status="ready",
        canaries=[
            schemas.CanaryAnswer(
                model=canary.model,
                provider=canary.provider,
                precision=canary.precision,
                duration_ms=canary.duration_ms,
            )
            for canary in state.canaries
        ],
    )


@router.get(
    "/health/startup",
    operation_id="getStartUp",
    summary="Is start-up over?",
    responses={**ANSWERED, **problem_answers("internal-error", "not-ready")},
)
async def get_start_up(lifecycle: LifecycleDependency) -> schemas.StartUp:
    """Started once and for all; draining does not undo it."""
    if lifecycle.phase is Phase.STARTING:
        raise NotReadyError("The service is starting.")
    return schemas.StartUp(status="started")


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "The text exposition format.",
            "headers": REQUEST_ID_HEADER,
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **problem_answers("internal-error", "not-ready", "records-unavailable"),
    },
)
async def get_metrics(_caller: MetricsCaller, observer: ObserverDependency) -> Response:
    """Requests, stages, queue, models and the process, under the prefix `karyon_`."""
    return Response(observer.render(), headers={"Content-Type": observer.content_type})
