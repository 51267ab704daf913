"""What the routes work with: opened by the lifespan, typed, never module-level."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends
from starlette.requests import Request

from service.api.cache import ResultCache
from service.api.idempotency import IdempotencyKeys
from service.api.lifecycle import Lifecycle, Phase
from service.api.oidc import TokenVerifier
from service.api.quota import CallerQuota
from service.api.room import QueueObserver
from service.api.work import WorkPool
from service.canary import Canary
from service.errors import NotReadyError, RecordsOffError
from service.inference.repository import ModelRepository
from service.provenance.keys import Keyring
from service.records.probe import RecordsProbe
from service.records.recorder import Recorder
from service.roster import Roster
from service.segmenter import Segmenter
from service.settings import Settings
from service.shadow import Shadow
from service.tracing import Tracing


class Observer(QueueObserver, Protocol):
    """Who counts what the routes do; `service.telemetry.Metrics` does."""

    @property
    def content_type(self) -> str:
        """Media type of `render()`."""

    def problem(self, name: str) -> None:
        """An error answer of this problem type is sent."""

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
        """An image was segmented."""

    def render(self) -> bytes:
        """All metrics in the text format."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Everything that the lifespan opened.

    Attributes:
        settings: The frozen settings.
        roster: The models, each with its segmenter.
        pool: The one pool in which work runs.
        cache: Results kept for the same question again.
        quota: Counts the requests of each caller.
        tracing: Keeps the spans of requests and batches.
        shadow: The candidate that sees a share of the traffic, where one is set.
        keyring: Signs the results.
        recorder: Where results are recorded; None where no records are kept.
        records_probe: Who asks whether the records answer; None where none are kept.
        idempotency_keys: Who sees to it that a repeated POST happens once; None without records.
        tokens: Who checks access tokens; None where no issuer is configured.
    """

    settings: Settings
    roster: Roster
    pool: WorkPool
    cache: ResultCache
    quota: CallerQuota
    tracing: Tracing
    keyring: Keyring
    shadow: Shadow | None = None
    recorder: Recorder | None = None
    records_probe: RecordsProbe | None = None
    idempotency_keys: IdempotencyKeys | None = None
    tokens: TokenVerifier | None = None

    @property
    def repository(self) -> ModelRepository:
        """The loaded models."""
        return self.roster.repository

    @property
    def canaries(self) -> tuple[Canary, ...]:
        """One canary result for each model."""
        return self.roster.canaries

    def segmenter(self, model: str | None) -> Segmenter:
        """Return the segmenter of a model, the default one for None.

        Raises:
            UnknownModelError: No such model is loaded.
        """
        return self.roster.segmenter(model)

    def close(self) -> None:
        """End the pool, then the engines that its last work used. Blocking."""
        self.pool.close()
        self.roster.close()
        self.tracing.close()


async def get_lifecycle(request: Request) -> Lifecycle:
    """Return the lifecycle, which exists before and after the lifespan."""
    return cast("Lifecycle", request.app.state.lifecycle)


async def get_observer(request: Request) -> Observer:
    """Return who counts."""
    return cast("Observer", request.app.state.observer)


# The dependencies are `async` so that FastAPI calls them on the event loop: a plain function would
# cost a hop to a thread, and a probe must never wait for one.
LifecycleDependency = Annotated[Lifecycle, Depends(get_lifecycle)]
ObserverDependency = Annotated[Observer, Depends(get_observer)]


async def get_state(request: Request, lifecycle: LifecycleDependency) -> ServiceState:
    """Return the state that the lifespan opened.

    Raises:
        NotReadyError: The service is starting up or draining.
    """
    state = getattr(request.state, "service", None)
    if lifecycle.phase is not Phase.READY or state is None:
        raise NotReadyError(f"The service is {lifecycle.phase.value} and takes no work now.")
    return cast("ServiceState", state)


StateDependency = Annotated[ServiceState, Depends(get_state)]


async def get_recorder(state: StateDependency) -> Recorder:
    """Return the recorder.

    Raises:
        RecordsOffError: No records are kept.
    """
    if state.recorder is None:
        raise RecordsOffError("This service keeps no records (KARYON_RECORDS=false).")
    return state.recorder


async def get_idempotency_keys(state: StateDependency) -> IdempotencyKeys:
    """Return the idempotency keys.

    Raises:
        RecordsOffError: No records are kept.
    """
    if state.idempotency_keys is None:
        raise RecordsOffError("This service keeps no records (KARYON_RECORDS=false).")
    return state.idempotency_keys


IdempotencyKeysDependency = Annotated[IdempotencyKeys, Depends(get_idempotency_keys)]
RecorderDependency = Annotated[Recorder, Depends(get_recorder)]
