from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.config import TrainingConfig, load_config, with_hold_out

SOURCE = {"name": "a", "path": "a", "validation_groups": ["p1"]}
RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = TrainingConfig.model_validate({"data": [SOURCE], "architecture": "unet"})
    (tmp_path / "config.json").write_text(config.to_json())
    again = load_config(tmp_path / "config.json")
    assert again == config
    assert again.sha256() == config.sha256()
    assert load_config(tmp_path / "config.json", {"seed": 9}).sha256() != config.sha256()


def test_a_fold_holds_out_other_patients_of_the_source_that_holds_any() -> None:
    other = {"name": "b", "path": "b"}
    config = TrainingConfig.model_validate({"data": [SOURCE, other]})
    fold = with_hold_out(config, ["p2", "p3"])
    assert [source.validation_groups for source in fold.data] == [("p2", "p3"), ()]
    assert fold.model_copy(update={"data": config.data}) == config
    both = TrainingConfig.model_validate({"data": [SOURCE, {**SOURCE, "name": "b"}]})
    with pytest.raises(ValueError, match="a and b hold patients out"):
        with_hold_out(both, ["p2"])


def test_a_configuration_cannot_be_changed() -> None:
    config = TrainingConfig.model_validate({"data": [SOURCE]})
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 2  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_recipes_are_valid_and_hold_patients_out(recipe: Path) -> None:
    config = load_config(recipe)
    assert any(source.validation_groups for source in config.data)
    # What ships may only be trained on data whose licence allows it.
    assert all(source.licence.startswith(("CC BY 4.0", "CC0")) for source in config.data)
    assert all(source.attribution and source.source for source in config.data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_px": 100}, "crop_px"),
        ({"batch_size": 0}, "batch_size"),
        ({"architecture": "segnet"}, "architecture"),
        ({"channels": ["distance"]}, "channels must be"),
        ({"leraning_rate": 1}, "leraning_rate"),
        ({"data": []}, "data"),
        ({"data": [{"name": "a", "path": "a"}]}, "no data source names validation_groups"),
        ({"data": [SOURCE, SOURCE]}, "two data sources have one name"),
        (
            {"initial_model": "a.keras", "encoder_weights": "imagenet"},
            "initial_model brings its encoder along",
        ),
        ({"data": [{**SOURCE, "weight": 0}]}, "every data source has weight 0"),
    ],
)
def test_a_mistake_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate({"data": [SOURCE], **values})


def test_batchnorm_keeps_its_statistics_only_where_they_are_worth_keeping() -> None:
    def keeps(**values: str) -> bool:
        config = TrainingConfig.model_validate({"data": [SOURCE], **values})
        return config.encoder_keeps_statistics

    assert keeps(encoder_weights="imagenet")
    assert keeps(initial_model="runs/other/model.keras")
    assert not keeps()
    assert not keeps(encoder_weights="imagenet", encoder_batchnorm="training")
    assert keeps(encoder_batchnorm="inference")
