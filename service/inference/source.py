"""The folder that models come from: what lies there, which version is chosen, how it is loaded."""

import hashlib
import json
import os
import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import ModelContractError
from service.inference.choice import MODEL_FILE, load_best
from service.inference.precision import PrecisionChoice
from service.inference.providers import DEFAULT_OPTIONS, Provider, RuntimeOptions
from service.inference.session import ModelSession

ACTIVE_FILE: Final = "active.json"

# Stands in the root of a volume of its own (ext4), and root alone may look into it.
_LOST_AND_FOUND: Final = "lost+found"


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """Which version of a name was chosen.

    Attributes:
        version: The active one.
        previous: The one that was active before, to which a rollback leads.
    """

    version: str
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A folder of models, and how they are to be run.

    Attributes:
        root: Folder of `<name>/<version>/model.onnx`.
        provider: As in `load_best`.
        precision: As in `load_best`.
        options: As in `load_best`.
        keep_all: Keep versions loaded that are not active.
        pinned: Models, as `name:version`, that are kept in any case.
    """

    root: Path
    provider: Provider = "auto"
    precision: PrecisionChoice = "auto"
    options: RuntimeOptions = DEFAULT_OPTIONS
    keep_all: bool = True
    pinned: Collection[str] = ()

    def versions(self) -> dict[str, list[str]]:
        """Return the versions that lie there, by name, the newest first.

        Raises:
            ModelContractError: A folder is not named after a version, or cannot be read.
        """
        listed = {}
        for folder in _folders(self.root):
            versions = [entry.name for entry in _folders(folder)]
            try:
                versions.sort(key=version_order, reverse=True)
            except ValueError as error:
                raise ModelContractError(
                    f"{folder.name}/ holds a folder that is not named after a version, as 1.0.0"
                ) from error
            if versions:
                listed[folder.name] = versions
        return listed

    def keeps(self, name: str, version: str) -> bool:
        """Tell whether a version stays loaded while another is active."""
        return self.keep_all or f"{name}:{version}" in self.pinned

    def load(self, name: str, version: str) -> ModelSession:
        """Load one version.

        Raises:
            ModelContractError: It is refused, or lies in a folder that is not named after it.
            ProviderError: As in `load_best`.
        """
        session = load_best(
            self.root / name / version,
            provider=self.provider,
            precision=self.precision,
            options=self.options,
        )
        contract = session.contract
        if (name, version) != (contract.name, contract.version):
            raise ModelContractError(
                f"{name}/{version}/{MODEL_FILE} says that it is {contract.name} "
                f"{contract.version}; it must lie in {contract.name}/{contract.version}/"
            )
        return session


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file, hexadecimal; None where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def read_active(folder: Path) -> ActiveVersion | None:
    """Read which version of a name was chosen.

    Args:
        folder: Of the name.

    Returns:
        None where nothing was.

    Raises:
        ModelContractError: The file is there and is not what `write_active` writes.
    """
    try:
        document = json.loads((folder / ACTIVE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelContractError(f"{folder.name}/{ACTIVE_FILE} cannot be read") from error
    fields = document if isinstance(document, dict) else {}
    version, previous = fields.get("version"), fields.get("previous")
    if not isinstance(version, str) or not isinstance(previous, str | None):
        raise ModelContractError(
            f'{folder.name}/{ACTIVE_FILE} must be {{"version": "1.0.0", "previous": null}}'
        )
    return ActiveVersion(version, previous)


def write_active(folder: Path, choice: ActiveVersion) -> bool:
    """Write which version of a name was chosen; whole or not at all.

    Args:
        folder: Of the name.
        choice: The choice.

    Returns:
        False where the folder cannot be written, as in a container's read-only file system.
    """
    content = json.dumps({"version": choice.version, "previous": choice.previous}) + "\n"
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=folder, prefix=".", suffix=".tmp", encoding="utf-8", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(folder / ACTIVE_FILE)
    except OSError:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        return False
    return True


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
    try:
        if not parent.is_dir():
            return []
        return sorted(
            entry
            for entry in parent.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and entry.name != _LOST_AND_FOUND
        )
    except OSError as error:
        raise ModelContractError(f"{parent} cannot be read: {error.strerror}") from error
