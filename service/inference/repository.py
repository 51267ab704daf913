"""The model repository: `<root>/<name>/<version>/model.onnx`, several models side by side."""

from pathlib import Path
from typing import Final, Self

from service.errors import ModelContractError, UnknownModelError
from service.inference.session import ModelSession, Provider

MODEL_FILE: Final = "model.onnx"


def embedded_models_dir() -> Path:
    """Return where the models that come with Karyon lie: in the wheel, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "models"
    return packaged if packaged.is_dir() else package.parent / "models"


class ModelRepository:
    """The loaded models, by name and version.

    Attributes:
        default_name: What a caller gets who names no model: a name, or `name:version`.
    """

    def __init__(self, sessions: list[ModelSession], default: str | None = None) -> None:
        """Take loaded sessions; see `open`, which loads them.

        Args:
            sessions: At least one, no two of the same name and version.
            default: Name, or `name:version`, of the default model; default the first name in
                alphabetical order.

        Raises:
            UnknownModelError: There is no model named `default`.
        """
        self._sessions = sorted(
            sessions,
            key=lambda session: version_order(session.contract.version),
            reverse=True,
        )
        self._sessions.sort(key=lambda session: session.contract.name)
        self._by_name: dict[str, ModelSession] = {}
        for session in self._sessions:
            name, version = session.contract.name, session.contract.version
            self._by_name.setdefault(name, session)  # the newest comes first
            self._by_name[f"{name}:{version}"] = session
        self.default_name = default or self._sessions[0].contract.name
        self.get()

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        default: str | None = None,
        provider: Provider = "auto",
        threads: int = 0,
    ) -> Self:
        """Load every model below `root`.

        Args:
            root: Folder of `<name>/<version>/model.onnx`. Other files, and folders whose names
                start with a dot, are not looked at.
            default: Name, or `name:version`, of the model for callers who name none.
            provider: As in `ModelSession.load`.
            threads: As in `ModelSession.load`.

        Returns:
            The repository; the newest version of each name answers to the bare name.

        Raises:
            ModelContractError: There is no model, or one of them is refused, or lies in a folder
                that is not named after it.
            ProviderError: As in `ModelSession.load`.
            UnknownModelError: There is no model named `default`.
        """
        folders = [version for name in _folders(root) for version in _folders(name)]
        if not folders:
            raise ModelContractError(
                f"no model in {root}: expected <name>/<version>/{MODEL_FILE} below it"
            )
        sessions = []
        for folder in folders:
            session = ModelSession.load(folder / MODEL_FILE, provider=provider, threads=threads)
            name, version = session.contract.name, session.contract.version
            if (folder.parent.name, folder.name) != (name, version):
                raise ModelContractError(
                    f"{folder.parent.name}/{folder.name}/{MODEL_FILE} says that it is "
                    f"{name} {version}; it must lie in {name}/{version}/"
                )
            sessions.append(session)
        return cls(sessions, default)

    def get(self, name: str | None = None) -> ModelSession:
        """Return a model.

        Args:
            name: `name` for its newest version, `name:version` for a certain one, None for the
                default model.

        Returns:
            The loaded session.

        Raises:
            UnknownModelError: There is none; the message lists those there are.
        """
        wanted = self.default_name if name is None else name
        session = self._by_name.get(wanted)
        if session is None:
            known = ", ".join(
                f"{item.contract.name}:{item.contract.version}" for item in self._sessions
            )
            raise UnknownModelError(f"no model {wanted[:80]!r}; there are: {known}")
        return session

    def all(self) -> list[ModelSession]:
        """Return all sessions, by name, the newest version of each name first."""
        return list(self._sessions)


def version_order(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """Return a sort key that orders versions as Semantic Versioning 2.0.0, section 11, says.

    Args:
        version: A valid semantic version without build metadata.

    Returns:
        A key: numbers first; a release is above its pre-releases; among their parts numbers are
        below words, and fewer parts below more.
    """
    release, _, preview = version.partition("-")
    parts = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in preview.split(".")
        if preview
    )
    return tuple(int(number) for number in release.split(".")), not preview, parts


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(
        entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
