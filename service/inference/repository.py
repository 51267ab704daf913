"""The model repository: `<root>/<name>/<version>/model.onnx`, several models side by side."""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from service.errors import ModelContractError, NothingToRollBackError, UnknownModelError
from service.inference.choice import MODEL_FILE
from service.inference.precision import PrecisionChoice
from service.inference.providers import Provider, RuntimeOptions
from service.inference.session import ModelSession
from service.inference.source import (
    ACTIVE_FILE,
    ActiveVersion,
    ModelSource,
    file_digest,
    read_active,
    version_order,
    write_active,
)


def embedded_models_dir() -> Path:
    """Return where the models that come with Karyon lie: in the wheel, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "models"
    return packaged if packaged.is_dir() else package.parent / "models"


@dataclass(frozen=True, slots=True)
class Activation:
    """What making a version active has changed.

    Attributes:
        name: Name of the model.
        version: Its active version now.
        previous: The version that was active before; the same where only its file was read anew,
            None where the name is new.
        persisted: Whether the choice was written, so that the next start makes it too.
        retired: Sessions that no new request gets.
    """

    name: str
    version: str
    previous: str | None
    persisted: bool
    retired: tuple[ModelSession, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """Who answers to what at one moment; replaced as a whole, so readers need no lock.

    Attributes:
        sessions: By name, the newest version of each name first.
        by_name: By `name` (the active version) and `name:version`.
        choices: Active version by name, where one was chosen.
    """

    sessions: tuple[ModelSession, ...]
    by_name: Mapping[str, ModelSession]
    choices: Mapping[str, ActiveVersion]

    @property
    def previous(self) -> dict[str, str]:
        """Version that was active before, by name."""
        return {
            name: choice.previous
            for name, choice in self.choices.items()
            if choice.previous is not None
        }

    @classmethod
    def of(cls, sessions: list[ModelSession], choices: Mapping[str, ActiveVersion]) -> "_Table":
        ordered = sorted(
            sessions, key=lambda item: version_order(item.contract.version), reverse=True
        )
        ordered.sort(key=lambda item: item.contract.name)
        by_name: dict[str, ModelSession] = {}
        for session in ordered:
            name, version = session.contract.name, session.contract.version
            by_name.setdefault(name, session)  # the newest comes first
            by_name[f"{name}:{version}"] = session
        for name, choice in choices.items():
            chosen = by_name.get(f"{name}:{choice.version}")
            if chosen is None:
                raise ModelContractError(
                    f"{name}/{ACTIVE_FILE} chooses version {choice.version}, which is not there"
                )
            by_name[name] = chosen
        return cls(tuple(ordered), by_name, dict(choices))


class ModelRepository:
    """The loaded models, by name and version. Safe to use from several threads at once.

    One version of each name is *active*: it answers to the bare name. That is the newest one, until
    `activate` makes it another; the choice is kept in `<root>/<name>/active.json`.

    Attributes:
        default_name: What a caller gets who names no model: a name, or `name:version`.
    """

    def __init__(
        self,
        sessions: list[ModelSession],
        default: str | None = None,
        *,
        choices: Mapping[str, ActiveVersion] | None = None,
        source: ModelSource | None = None,
    ) -> None:
        """Take loaded sessions; see `open`, which loads them.

        Args:
            sessions: At least one, no two of the same name and version.
            default: Name, or `name:version`, of the default model; default the first name in
                alphabetical order.
            choices: Active version by name, where it is not the newest.
            source: Where more versions come from; None for a repository that never changes.

        Raises:
            UnknownModelError: There is no model named `default`.
            ModelContractError: An active version is not loaded.
        """
        self._source = source
        self._lock = threading.Lock()
        self._table = _Table.of(sessions, choices or {})
        self.default_name = default or self._table.sessions[0].contract.name
        self.get()

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        default: str | None = None,
        provider: Provider = "auto",
        threads: int = 0,
        precision: PrecisionChoice = "fp32",
        options: RuntimeOptions | None = None,
        versions: Literal["all", "active"] = "all",
        pinned: Collection[str] = (),
    ) -> Self:
        """Load the models below `root`.

        Args:
            root: Folder of `<name>/<version>/model.onnx`. Other files, and folders whose names
                start with a dot, are not looked at.
            default: Name, or `name:version`, of the model for callers who name none.
            provider: As in `load_best`.
            threads: Threads of one run on the CPU; 0 takes all processors of this process.
            precision: As in `load_best`.
            options: How to use the machine; `threads` is then taken from here.
            versions: `all`, or only the active one of each name and those pinned.
            pinned: More models, as `name:version`, that stay loaded whatever is active.

        Returns:
            The repository.

        Raises:
            ModelContractError: There is no model, or one of them is refused, or lies in a folder
                that is not named after it, or `active.json` is no such file.
            ProviderError: As in `load_best`.
            UnknownModelError: There is no model named `default`.
        """
        source = ModelSource(
            root,
            provider=provider,
            precision=precision,
            options=options or RuntimeOptions(threads=threads),
            keep_all=versions == "all",
            pinned=frozenset(pinned) | ({default} if default is not None else set()),
        )
        listed = source.versions()
        if not listed:
            raise ModelContractError(
                f"no model in {root}: expected <name>/<version>/{MODEL_FILE} below it"
            )
        choices = {name: read_active(root / name) for name in listed}
        chosen = {name: choice for name, choice in choices.items() if choice is not None}
        sessions = []
        for name, found in listed.items():
            active = chosen[name].version if name in chosen else found[0]
            wanted = [item for item in found if source.keeps(name, item) or item == active]
            if active not in found:
                raise ModelContractError(
                    f"{name}/{ACTIVE_FILE} chooses version {active}, which is not there"
                )
            sessions += [source.load(name, item) for item in wanted]
        return cls(sessions, default, choices=chosen, source=source)

    def get(self, name: str | None = None) -> ModelSession:
        """Return a model.

        Args:
            name: `name` for its active version, `name:version` for a certain one, None for the
                default model.

        Returns:
            The loaded session. Whoever holds it may go on using it after another version has become
            active; its memory is freed with the last who does.

        Raises:
            UnknownModelError: There is none; the message lists those there are.
        """
        wanted = self.default_name if name is None else name
        table = self._table
        session = table.by_name.get(wanted)
        if session is None:
            known = ", ".join(
                f"{item.contract.name}:{item.contract.version}" for item in table.sessions
            )
            raise UnknownModelError(f"no model {wanted[:80]!r}; there are: {known}")
        return session

    def all(self) -> list[ModelSession]:
        """Return all sessions, by name, the newest version of each name first."""
        return list(self._table.sessions)

    def active(self, name: str) -> str:
        """Return the active version of a name.

        Raises:
            UnknownModelError: There is no such name.
        """
        return self.get(name.partition(":")[0]).contract.version

    def previous(self, name: str) -> str:
        """Return the version that was active before.

        Raises:
            UnknownModelError: There is no such name.
            NothingToRollBackError: No other version was active.
        """
        active = self.active(name)
        previous = self._table.previous.get(name)
        if previous is None:
            raise NothingToRollBackError(f"{name} has had no version but {active} active")
        return previous

    def load_version(self, name: str, version: str) -> ModelSession:
        """Load a version from its folder, or return it where the same file is loaded. Blocking.

        Nothing changes for callers until `activate`.

        Raises:
            UnknownModelError: There is no such folder.
            ModelContractError: As in `load_best`.
            ProviderError: As in `load_best`.
        """
        if self._source is None or version not in self._source.versions().get(name, ()):
            raise UnknownModelError(f"no folder {name[:80]}/{version[:80]} in the repository")
        loaded = self._table.by_name.get(f"{name}:{version}")
        if loaded is not None and file_digest(loaded.path) == loaded.digest:
            return loaded
        return self._source.load(name, version)

    def activate(self, session: ModelSession) -> Activation:
        """Let a session answer to its bare name, from one request to the next.

        Args:
            session: From `load_version`.

        Returns:
            What changed.
        """
        name, version = session.contract.name, session.contract.version
        with self._lock:
            before = self._table
            displaced = before.by_name.get(name)
            previous = None if displaced is None else displaced.contract.version
            others = [
                item
                for item in before.sessions
                if (item.contract.name, item.contract.version) != (name, version)
                and (item is not displaced or self._keeps(item))
            ]
            choice = ActiveVersion(
                version=version,
                previous=before.previous.get(name) if previous == version else previous,
            )
            self._table = _Table.of([*others, session], {**before.choices, name: choice})
        retired = tuple(item for item in before.sessions if item not in self._table.sessions)
        persisted = self._source is not None and write_active(self._source.root / name, choice)
        return Activation(name, version, previous, persisted, retired)

    def _keeps(self, session: ModelSession) -> bool:
        contract = session.contract
        return self._source is None or self._source.keeps(contract.name, contract.version)
