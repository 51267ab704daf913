"""The models folder: versions, the chosen one, what appears later."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.errors import ModelContractError, NothingToRollBackError, UnknownModelError
from service.inference.repository import ModelRepository
from service.inference.source import ACTIVE_FILE, ActiveVersion, read_active, write_active

MakeModel = Callable[..., Path]


@pytest.fixture
def root(tiny_models_dir: Path, tmp_path: Path) -> Path:
    """A models folder of one's own: tiny 1.0.0 and 1.1.0, tiny_onechannel 1.0.0."""
    return shutil.copytree(tiny_models_dir, tmp_path / "models")


def open_models(root: Path, **options: object) -> ModelRepository:
    return ModelRepository.open(root, provider="cpu", threads=1, **options)  # type: ignore[arg-type]


def test_activation_swaps_the_bare_name_and_nothing_else(root: Path) -> None:
    models = open_models(root)
    newest = models.get("tiny")
    change = models.activate(models.load_version("tiny", "1.0.0"))
    assert (change.version, change.previous, change.retired) == ("1.0.0", "1.1.0", ())
    assert models.get("tiny") is models.get("tiny:1.0.0")
    assert models.get("tiny:1.1.0") is newest
    assert models.active("tiny") == "1.0.0"
    assert models.active("tiny_onechannel") == "1.0.0"


def test_the_choice_outlives_the_process(root: Path) -> None:
    models = open_models(root)
    assert models.activate(models.load_version("tiny", "1.0.0")).persisted
    again = open_models(root)
    assert again.get("tiny").contract.version == "1.0.0"
    assert again.previous("tiny") == "1.1.0"
    assert [path.name for path in (root / "tiny").iterdir() if path.name.endswith(".tmp")] == []


def test_a_version_that_appears_later_can_be_activated(
    root: Path, tiny_model_factory: MakeModel
) -> None:
    models = open_models(root)
    tiny_model_factory(root / "tiny" / "2.0.0" / "model.onnx", version="2.0.0")
    tiny_model_factory(root / "fresh" / "0.1.0" / "model.onnx", name="fresh", version="0.1.0")
    with pytest.raises(UnknownModelError):
        models.get("tiny:2.0.0")
    assert models.activate(models.load_version("tiny", "2.0.0")).previous == "1.1.0"
    assert models.activate(models.load_version("fresh", "0.1.0")).previous is None
    assert models.get("tiny").contract.version == "2.0.0"
    assert models.get("fresh:0.1.0") is models.get("fresh")


def test_a_file_that_was_replaced_is_read_anew(root: Path, tiny_model_factory: MakeModel) -> None:
    models = open_models(root)
    before = models.get("tiny")
    assert models.load_version("tiny", "1.1.0") is before
    tiny_model_factory(before.path, version="1.1.0", description="Corrected.")
    change = models.activate(models.load_version("tiny", "1.1.0"))
    assert change.retired == (before,)
    assert models.get("tiny").contract.description == "Corrected."
    with pytest.raises(NothingToRollBackError):
        models.previous("tiny")


def test_only_active_and_pinned_versions_are_loaded(root: Path) -> None:
    models = open_models(root, versions="active", pinned=["tiny:1.0.0"])
    listed = [(item.contract.name, item.contract.version) for item in models.all()]
    assert listed == [("tiny", "1.1.0"), ("tiny", "1.0.0"), ("tiny_onechannel", "1.0.0")]
    models = open_models(root, versions="active")
    assert len(models.all()) == 2
    before = models.get("tiny")
    change = models.activate(models.load_version("tiny", "1.0.0"))
    assert change.retired == (before,)
    assert len(models.all()) == 2


@pytest.mark.parametrize(
    ("name", "version"), [("tiny", "9.9.9"), ("none", "1.0.0"), ("..", "tiny"), ("tiny", "../tiny")]
)
def test_what_is_no_folder_of_the_repository_is_unknown(
    root: Path, name: str, version: str
) -> None:
    with pytest.raises(UnknownModelError, match="no folder"):
        open_models(root).load_version(name, version)


def test_a_repository_without_a_folder_never_changes(root: Path) -> None:
    models = ModelRepository(open_models(root).all())
    with pytest.raises(UnknownModelError):
        models.load_version("tiny", "1.0.0")
    assert not models.activate(models.get("tiny:1.0.0")).persisted


def test_a_choice_that_is_not_there_refuses_to_open(root: Path) -> None:
    write_active(root / "tiny", ActiveVersion("3.0.0"))
    with pytest.raises(ModelContractError, match=r"tiny/active\.json chooses version 3\.0\.0"):
        open_models(root)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 1}', '{"version": "1.0.0", "previous": 3}']
)
def test_a_choice_that_cannot_be_read_refuses_to_open(root: Path, content: str) -> None:
    (root / "tiny" / ACTIVE_FILE).write_text(content)
    with pytest.raises(ModelContractError, match=r"tiny/active\.json"):
        open_models(root)


def test_the_file_is_what_an_operator_would_write(tmp_path: Path) -> None:
    assert read_active(tmp_path) is None
    assert write_active(tmp_path, ActiveVersion("1.0.0", "1.1.0"))
    document = json.loads((tmp_path / ACTIVE_FILE).read_text())
    assert document == {"version": "1.0.0", "previous": "1.1.0"}
    assert read_active(tmp_path) == ActiveVersion("1.0.0", "1.1.0")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert not write_active(tmp_path / "absent", ActiveVersion("1.0.0"))


def test_a_folder_that_is_no_version_refuses_to_open(root: Path) -> None:
    (root / "tiny" / "latest").mkdir()
    with pytest.raises(ModelContractError, match="not named after a version"):
        open_models(root)


def test_a_volume_of_its_own_is_a_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "lost+found").mkdir()
    real = Path.iterdir

    def forbidding(folder: Path) -> Iterator[Path]:
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", forbidding)
    assert open_models(root).active("tiny") == "1.1.0"


def test_a_folder_that_may_not_be_read_is_told_in_a_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(folder: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(ModelContractError, match=r"models cannot be read: Permission denied"):
        open_models(root)
