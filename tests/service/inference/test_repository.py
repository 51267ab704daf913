"""The model repository on a real folder of real files."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from service.errors import ModelContractError, UnknownModelError
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.source import version_order

MakeModel = Callable[..., Path]


@pytest.fixture(scope="module")
def models(tiny_models_dir: Path) -> ModelRepository:
    return ModelRepository.open(tiny_models_dir, default="tiny", provider="cpu", threads=1)


def test_bare_name_is_the_newest_version(models: ModelRepository) -> None:
    assert models.get("tiny").contract.version == "1.1.0"
    assert models.get() is models.get("tiny")


def test_older_version_stays_reachable(models: ModelRepository) -> None:
    assert models.get("tiny:1.0.0").contract.version == "1.0.0"


def test_all_lists_names_in_order_newest_first(models: ModelRepository) -> None:
    listed = [(item.contract.name, item.contract.version) for item in models.all()]
    assert listed == [("tiny", "1.1.0"), ("tiny", "1.0.0"), ("tiny_onechannel", "1.0.0")]


@pytest.mark.parametrize("name", ["nope", "tiny:9.9.9", "", "../tiny", "TINY"])
def test_unknown_model_lists_the_known(models: ModelRepository, name: str) -> None:
    with pytest.raises(UnknownModelError, match=r"tiny:1\.1\.0, tiny:1\.0\.0, tiny_onechannel"):
        models.get(name)


def test_default_may_name_a_version(tiny_models_dir: Path) -> None:
    models = ModelRepository.open(tiny_models_dir, default="tiny:1.0.0", provider="cpu")
    assert models.default_name == "tiny:1.0.0"
    assert models.get().contract.version == "1.0.0"


def test_default_without_choice_is_the_first_name(tiny_models_dir: Path) -> None:
    assert ModelRepository.open(tiny_models_dir, provider="cpu").default_name == "tiny"


def test_unknown_default_refuses_to_open(tiny_models_dir: Path) -> None:
    with pytest.raises(UnknownModelError, match="no model 'other'"):
        ModelRepository.open(tiny_models_dir, default="other", provider="cpu")


def test_versions_are_ordered_as_numbers(tiny_model_factory: MakeModel, tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.10.0-rc.1"):
        tiny_model_factory(tmp_path / "tiny" / version / "model.onnx", version=version)
    models = ModelRepository.open(tmp_path, provider="cpu", threads=1)
    listed = [item.contract.version for item in models.all()]
    assert listed == ["1.10.0", "1.10.0-rc.1", "1.9.0"]


def test_order_is_that_of_the_semver_specification() -> None:
    ascending = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "2.0.0",
        "2.1.0",
        "2.1.1",
        "10.0.0",
    ]
    assert all(version_order(low) < version_order(high) for low, high in pairwise(ascending))


def test_missing_or_empty_folder_refuses_to_open(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelContractError, match=r"no model in .* expected <name>"):
            ModelRepository.open(root)


def test_bad_model_beside_good_ones_refuses_to_open(tiny_models_dir: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_models_dir, tmp_path / "models")
    (root / "tiny" / "1.0.0" / "model.onnx").write_bytes(b"broken")
    with pytest.raises(ModelContractError, match=r"tiny/1\.0\.0/model\.onnx: onnxruntime cannot"):
        ModelRepository.open(root, provider="cpu")


def test_version_folder_without_a_model_refuses_to_open(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(tiny_models_dir, tmp_path / "models")
    (root / "tiny" / "2.0.0").mkdir()
    with pytest.raises(ModelContractError, match=r"tiny/2\.0\.0/model\.onnx: cannot be read"):
        ModelRepository.open(root, provider="cpu")


def test_model_in_the_wrong_folder_refuses_to_open(
    tiny_model_factory: MakeModel, tmp_path: Path
) -> None:
    tiny_model_factory(tmp_path / "tiny" / "3.0.0" / "model.onnx", version="1.0.0")
    with pytest.raises(ModelContractError, match=r"tiny 1\.0\.0; it must lie in tiny/1\.0\.0/"):
        ModelRepository.open(tmp_path, provider="cpu")


def test_files_and_hidden_folders_are_not_models(tiny_models_dir: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_models_dir, tmp_path / "models")
    (root / "README.md").write_text("models")
    (root / "tiny" / "notes.txt").write_text("notes")
    (root / ".cache" / "x").mkdir(parents=True)
    assert len(ModelRepository.open(root, provider="cpu").all()) == 3


def test_embedded_models_lie_in_the_checkout(repository: Path) -> None:
    assert embedded_models_dir() == repository / "models"
