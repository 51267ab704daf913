"""The models on duty: a segmenter for each, swapped between one request and the next.

```
request  ──► segmenter(name) ── holds one session from start to end ──► answer
                   ▲
activate ─► load ─► warm ─► self-test, canary ─► swap ─► the old one ends with its last request
```
"""

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from service.allocator import give_back_memory
from service.canary import Canary, sing
from service.errors import (
    ModelContractError,
    ModelRefusedError,
    ProviderError,
)
from service.inference.repository import Activation, ModelRepository
from service.inference.session import ModelSession
from service.segmenter import Segmenter

_log = structlog.stdlib.get_logger("karyon.models")

OpenSegmenter = Callable[[ModelSession], tuple[Segmenter, Callable[[], None] | None]]


class RosterObserver(Protocol):
    """Who shows which models are on duty; `service.telemetry.Metrics` does."""

    def model_loaded(
        self, name: str, version: str, digest: str, provider: str, precision: str
    ) -> None:
        """A model was loaded."""

    def model_retired(
        self, name: str, version: str, digest: str, provider: str, precision: str
    ) -> None:
        """A model gets no more requests."""

    def model_active(self, name: str, version: str, previous: str | None) -> None:
        """A version answers to its bare name now, instead of `previous`."""


class Roster:
    """The segmenters of a repository's sessions. Safe to use from several threads at once."""

    def __init__(
        self,
        repository: ModelRepository,
        open_segmenter: OpenSegmenter,
        observer: RosterObserver,
    ) -> None:
        """Warm and prove every loaded model. Blocking.

        Args:
            repository: The loaded models.
            open_segmenter: Makes the segmenter of a session, warm, and says how to close what it
                runs on; that is closed once the last request that holds the segmenter has ended.
            observer: Told of every change.

        Raises:
            ModelContractError: A model does not segment the canary image.
        """
        self.repository = repository
        self._open_segmenter = open_segmenter
        self._observer = observer
        self._changing = threading.Lock()
        self._swapping = threading.Lock()
        self._closers: list[weakref.finalize[..., Segmenter]] = []
        self._ready: dict[ModelSession, tuple[Segmenter, Canary]] = {}
        for session in repository.all():
            self._ready[session] = self._prepare(session)
        give_back_memory()
        for session in repository.all():
            self._show(session)
            if repository.get(session.contract.name) is session:
                observer.model_active(session.contract.name, session.contract.version, None)

    @property
    def canaries(self) -> tuple[Canary, ...]:
        """One canary result for each loaded model, in the repository's order."""
        with self._swapping:
            return tuple(self._ready[session][1] for session in self.repository.all())

    @property
    def segmenters(self) -> Mapping[str, Segmenter]:
        """The segmenters by `name:version`."""
        with self._swapping:
            return {canary.model: segmenter for segmenter, canary in self._ready.values()}

    def segmenter(self, model: str | None) -> Segmenter:
        """Return the segmenter of a model, the default one for None.

        A request asks once and keeps what it got: its answer is of one model from start to end.

        Raises:
            UnknownModelError: No such model is loaded.
        """
        with self._swapping:
            return self._ready[self.repository.get(model)][0]

    def activate(self, name: str, version: str) -> tuple[Activation, ModelSession]:
        """Load and prove a version, then let it answer to the bare name. Blocking.

        Args:
            name: Name of the model.
            version: A version in the repository's folder, loaded or not.

        Returns:
            What changed, and the session that is active now.

        Raises:
            UnknownModelError: There is no such version.
            ModelRefusedError: It is refused; what was active stays so.
        """
        # One change at a time: two would load two models into the same memory.
        with self._changing:
            changed = self._activate(name, version)
        give_back_memory()
        return changed

    def rollback(self, name: str) -> tuple[Activation, ModelSession]:
        """Make the version active again that was active before. Blocking.

        Args:
            name: Name of the model.

        Returns:
            As `activate`.

        Raises:
            UnknownModelError: There is no such model, or the version's folder is gone.
            NothingToRollBackError: No other version was active.
            ModelRefusedError: As in `activate`.
        """
        with self._changing:
            changed = self._activate(name, self.repository.previous(name))
        give_back_memory()
        return changed

    def close(self) -> None:
        """Close what the segmenters run on; no request may be running. Blocking."""
        for closer in self._closers:
            closer()

    def _activate(self, name: str, version: str) -> tuple[Activation, ModelSession]:
        try:
            session = self.repository.load_version(name, version)
            ready = self._ready.get(session) or self._prepare(session)
        except (ModelContractError, ProviderError) as error:
            raise ModelRefusedError(str(error)) from error
        with self._swapping:
            self._ready[session] = ready
            change = self.repository.activate(session)
            for retired in change.retired:
                del self._ready[retired]
        self._closers = [closer for closer in self._closers if closer.alive]
        for retired in change.retired:
            self._observer.model_retired(*_labels(retired))
        self._show(session)
        self._observer.model_active(name, version, change.previous)
        return change, session

    def _prepare(self, session: ModelSession) -> tuple[Segmenter, Canary]:
        segmenter, close = self._open_segmenter(session)
        if close is not None:
            # Whoever still segments with it holds it, and nobody else does once it is retired.
            closer = weakref.finalize(segmenter, close)
            closer.atexit = False  # `close` does that, in order
            self._closers.append(closer)
        canary = sing(segmenter)
        if session.has_wide:
            # Its weights are there twice; a model that waits for its first image keeps no more.
            session.give_back_memory()
        return segmenter, canary

    def _show(self, session: ModelSession) -> None:
        self._observer.model_loaded(*_labels(session))
        _log.info(
            "model ready",
            model=f"{session.contract.name}:{session.contract.version}",
            provider=session.provider,
            precision=session.precision,
            not_taken=list(session.passed_over),
        )


def _labels(session: ModelSession) -> tuple[str, str, str, str, str]:
    contract = session.contract
    return (
        contract.name,
        contract.version,
        session.digest,
        session.provider,
        session.precision,
    )
