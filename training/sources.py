"""The data sources of a configuration, read and split by patient; free of Keras."""

from pathlib import Path

from training.config import DataSource, TrainingConfig
from training.datasets import (
    DEFAULT_GROUP_PATTERN,
    Sample,
    check_splits,
    read_dataset,
    split_by_group,
)

Splits = tuple[dict[str, list[Sample]], dict[str, list[Sample]]]
"""Training samples and validation samples, by source name."""


def read_sources(config: TrainingConfig, data_root: Path) -> Splits:
    """Read and split every data source.

    Returns:
        Training samples and validation samples, by source name.

    Raises:
        training.datasets.DatasetError: unusable data.
    """
    train, validation = {}, {}
    for source in config.data:
        samples = read_dataset(locate(source, data_root), group_pattern=source.group_pattern)
        train[source.name], validation[source.name] = split_by_group(
            samples, source.validation_groups
        )
    trained_on = {source.name: train[source.name] for source in config.data if source.weight > 0}
    check_splits(trained_on, validation)
    return train, validation


def group_pattern_for(config: TrainingConfig, folder: Path) -> str:
    """The pattern by which a run told the patients of a folder, known by its name.

    The usual pattern where the recipe reads no folder of that name.
    """
    names = {folder.name, folder.resolve().name}
    for source in config.data:
        if source.path.name in names:
            return source.group_pattern
    return DEFAULT_GROUP_PATTERN


def locate(source: DataSource, data_root: Path) -> Path:
    """The folder of a source."""
    return source.path if source.path.is_absolute() else data_root / source.path
