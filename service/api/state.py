"""What the routes work with: opened by the lifespan, typed, never module-level."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends
from starlette.requests import Request

from service.api.cache import ResultCache
from service.api.lifecycle import Lifecycle, Phase
from service.api.quota import CallerQuota
from service.api.work import QueueObserver, WorkPool
from service.engine import Engine
from service.errors import NotReadyError
from service.inference.repository import ModelRepository
from service.inference.session import ModelSession
from service.segmenter import Segmenter
from service.settings import Settings
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
class Canary:
    """The result of the segmentation that each start-up makes before it calls itself ready.

    Attributes:
        model: `name:version` of the model.
        provider: Execution provider that really ran it.
        duration_ms: Milliseconds of the second, warm run.
    """

    model: str
    provider: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Everything that the lifespan opened.

    Attributes:
        settings: The frozen settings.
        repository: The loaded models.
        engines: One engine for each loaded session, by `name:version`.
        pool: The one pool in which work runs.
        cache: Results kept for the same question again.
        quota: Counts the requests of each caller.
        tracing: Keeps the spans of requests and batches.
        canaries: One canary result for each model.
    """

    settings: Settings
    repository: ModelRepository
    engines: Mapping[str, Engine]
    pool: WorkPool
    cache: ResultCache
    quota: CallerQuota
    tracing: Tracing
    canaries: tuple[Canary, ...]

    def segmenter(self, model: str | None) -> Segmenter:
        """Return the segmenter of a model, the default one for None.

        Raises:
            UnknownModelError: No such model is loaded.
        """
        return self.engines[model_key(self.repository.get(model))].segmenter

    def close(self) -> None:
        """End the pool, then the engines that its last work used. Blocking."""
        self.pool.close()
        for engine in self.engines.values():
            engine.close()
        self.tracing.close()


def model_key(session: ModelSession) -> str:
    """Return `name:version` of a session."""
    return f"{session.contract.name}:{session.contract.version}"


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
