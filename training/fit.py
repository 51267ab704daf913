"""One training run: from a configuration to a run folder.

The run folder holds

| file | what |
|---|---|
| `config.json` | the configuration, as validated |
| `data.json` | which image of which patient was in which split, and the digest of the data |
| `initial/` | the same two files of the run whose model this one started from |
| `model.keras` | the best model so far, float32, without optimizer |
| `history.csv` | one row an epoch |
| `state.npz` | what an exact resume needs; removed when the run is complete |
| `tensorboard/` | event files |
| `curves.png`, `metrics.json` | at the end: the curves, and the figures of the best epoch |
"""

import json
from collections.abc import Sequence
from pathlib import Path

import keras

from training.architectures import ARCHITECTURES
from training.architectures.decoder import ENCODER_NAME
from training.augmentation import Augmentation
from training.callbacks import (
    AveragedValidation,
    EpochSeed,
    LearningRate,
    Progress,
    RunRecorder,
    TensorBoardWriter,
    score,
)
from training.config import DataSource, TrainingConfig
from training.crops import CropDataset, load_images, validation_tiles
from training.datasets import (
    Sample,
    check_splits,
    dataset_digest,
    read_dataset,
    split_by_group,
)
from training.distillation import load_teachers, soften_targets
from training.lineage import INITIAL_FOLDER, copy_records, teacher_folder
from training.losses import make_loss
from training.metrics import make_metrics
from training.report import plot_curves
from training.run_state import RunState, read_history


class RunFolderError(ValueError):
    """A run folder that cannot be started or resumed; the message names fault and remedy."""


def fit(
    config: TrainingConfig,
    run_dir: Path,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    stop_after_epoch: int | None = None,
    quiet: bool = False,
) -> Path:
    """Train a model, or go on with an interrupted run.

    A run that was killed and resumed ends with the weights of one that was not, up to the
    non-determinism of the backend's own kernels: crops depend on (seed, epoch, step), the learning
    rate on the step, and all variables of model and optimizer are saved after every epoch.

    Args:
        config: what to train.
        run_dir: folder to write; must not hold a run unless `resume`.
        data_root: where relative paths of data and encoder weights start; the working directory
            by default.
        resume: go on from the last finished epoch of `run_dir`.
        stop_after_epoch: end early as if killed, after so many epochs in all.
        quiet: no progress bar.

    Returns:
        The path of the best model, `run_dir/model.keras`.

    Raises:
        RunFolderError: the folder holds another run, or nothing to resume.
        training.datasets.DatasetError: unusable data.
    """
    _check_folder(config, run_dir, resume=resume)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)

    train, validation = read_sources(config, data_root or Path())
    channels = len(config.channels)
    state = RunState(run_dir / "state.npz")
    first_epoch = state.epochs_done() if resume else 0
    shown = [
        (load_images(train[source.name], channels), source.weight)
        for source in config.data
        if source.weight > 0
    ]
    if config.teachers:
        teachers = load_teachers(config.teachers, channels)
        shown = [
            (
                soften_targets(
                    images, teachers, share=config.teacher_share, views=config.teacher_views
                ),
                weight,
            )
            for images, weight in shown
        ]
    crops = CropDataset(
        shown,
        crop_px=config.crop_px,
        batch_size=config.batch_size,
        steps=config.steps_per_epoch,
        augmentation=Augmentation(**config.augmentation.model_dump()),
        nucleus_share=config.nucleus_share,
        seed=config.seed,
    )
    held_out = load_images([s for samples in validation.values() for s in samples], channels)
    validation_data = validation_tiles(held_out, config.crop_px)

    model = build_model(config, data_root or Path())
    # Nothing is written before all has been read: a mistyped path leaves no half-made run.
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(config.to_json(), encoding="utf-8")
    _write_data_record(run_dir, config, train, validation)
    if config.initial_model is not None:
        copy_records(Path(config.initial_model).parent, run_dir / INITIAL_FOLDER)
    for number, teacher in enumerate(config.teachers, start=1):
        copy_records(Path(teacher).parent, run_dir / teacher_folder(number))
    last_epoch = min(config.epochs, stop_after_epoch or config.epochs)
    for start, end, frozen in _phases(config):
        if first_epoch >= min(end, last_epoch):
            continue
        compile_model(model, config, freeze_encoder=frozen)
        if first_epoch > 0:
            # A phase starts with a fresh optimizer, and goes on with its own. Also within one
            # process it starts from the saved state: Keras ends a fit by putting the average of
            # the weights in their place, which a resumed run would not have seen.
            state.restore(model, with_optimizer=first_epoch > start)
        model.fit(
            crops,
            validation_data=validation_data,
            validation_batch_size=config.batch_size,
            initial_epoch=max(start, first_epoch),
            epochs=min(end, last_epoch),
            shuffle=False,
            verbose=0,
            callbacks=[EpochSeed(crops), *_callbacks(config, run_dir, state, quiet=quiet)],
        )
        if model.stop_training:
            break
        first_epoch = max(first_epoch, end)
    history = read_history(run_dir / "history.csv")
    if history:
        plot_curves(run_dir / "history.csv", run_dir / "curves.png")
        best = max(history, key=lambda row: score(row, config))
        text = json.dumps(best, indent=2) + "\n"
        (run_dir / "metrics.json").write_text(text, encoding="utf-8")
    if stop_after_epoch is None or stop_after_epoch >= config.epochs:
        state.remove()
    return run_dir / "model.keras"


def build_model(config: TrainingConfig, data_root: Path) -> keras.Model:
    """Build a run's model with the weights that it starts from.

    Args:
        config: architecture, channels, encoder weights or initial model.
        data_root: where a relative path of encoder weights starts.

    Raises:
        RunFolderError: the initial model is missing or has another architecture.
        ValueError: the encoder weights are missing or do not fit.
    """
    model = ARCHITECTURES[config.architecture](
        channels=len(config.channels), encoder_weights=_locate_weights(config, data_root)
    )
    if config.initial_model is None:
        return model
    if not Path(config.initial_model).is_file():
        raise RunFolderError(f"initial model {config.initial_model} not found")
    initial = keras.models.load_model(config.initial_model, compile=False)
    shapes = [[weight.shape for weight in m.get_weights()] for m in (model, initial)]
    if shapes[0] != shapes[1]:
        raise RunFolderError(
            f"initial model {config.initial_model} is a {initial.name}, not a "
            f"{config.architecture} with {len(config.channels)} channels"
        )
    model.set_weights(initial.get_weights())
    return model


def compile_model(model: keras.Model, config: TrainingConfig, *, freeze_encoder: bool) -> None:
    """Compile for one phase of the schedule.

    Batch normalisation of a pretrained encoder keeps its ImageNet statistics in both phases: a few
    small batches of histology would replace them by worse ones, and the model that trains well
    with batch statistics validates blank (keras#9214, docs/blank-masks.md).

    Args:
        model: a model of `ARCHITECTURES`.
        config: loss, optimizer and batch-normalisation mode.
        freeze_encoder: whether the encoder's weights stay as they are.
    """
    encoders = [layer for layer in model.layers if layer.name == ENCODER_NAME]
    for encoder in encoders:
        encoder.trainable = not freeze_encoder
        if not freeze_encoder:
            for layer in encoder.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    # In Keras a frozen BatchNormalization runs in inference mode.
                    layer.trainable = not config.encoder_keeps_statistics
    model.compile(
        optimizer=keras.optimizers.Adam(
            config.learning_rate,
            global_clipnorm=config.gradient_clip_norm,
            use_ema=config.ema_momentum > 0,
            ema_momentum=config.ema_momentum or None,
        ),
        loss=make_loss(
            config.loss,
            distance_weight=config.distance_weight,
            boundary_weight=config.boundary_weight,
        ),
        metrics=make_metrics(),
    )


def read_sources(
    config: TrainingConfig, data_root: Path
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """Read and split every data source.

    Returns:
        Training samples and validation samples, by source name.

    Raises:
        training.datasets.DatasetError: unusable data.
    """
    train, validation = {}, {}
    for source in config.data:
        samples = read_dataset(_locate(source, data_root), group_pattern=source.group_pattern)
        train[source.name], validation[source.name] = split_by_group(
            samples, source.validation_groups
        )
    trained_on = {source.name: train[source.name] for source in config.data if source.weight > 0}
    check_splits(trained_on, validation)
    return train, validation


def _locate(source: DataSource, data_root: Path) -> Path:
    return source.path if source.path.is_absolute() else data_root / source.path


def _locate_weights(config: TrainingConfig, data_root: Path) -> str | None:
    name = config.encoder_weights
    if name is None or name == "imagenet":
        return name
    return str(name if Path(name).is_absolute() else data_root / name)


def _phases(config: TrainingConfig) -> list[tuple[int, int, bool]]:
    """(first epoch, end, encoder frozen); only a pretrained encoder is worth freezing."""
    frozen = min(config.frozen_epochs, config.epochs) if config.encoder_weights else 0
    phases = [(0, frozen, True), (frozen, config.epochs, False)]
    return [phase for phase in phases if phase[0] < phase[1]]


def _callbacks(
    config: TrainingConfig, run_dir: Path, state: RunState, *, quiet: bool
) -> list[keras.callbacks.Callback]:
    callbacks = [
        AveragedValidation(),
        LearningRate(config),
        RunRecorder(run_dir, config, state),
        TensorBoardWriter(run_dir / "tensorboard"),
    ]
    return callbacks if quiet else [*callbacks, Progress(config)]


def _check_folder(config: TrainingConfig, run_dir: Path, *, resume: bool) -> None:
    saved = run_dir / "config.json"
    if resume:
        if not saved.is_file() or not (run_dir / "state.npz").is_file():
            raise RunFolderError(f"{run_dir}: no interrupted run to resume")
        if saved.read_text(encoding="utf-8") != config.to_json():
            raise RunFolderError(
                f"{run_dir}: the configuration differs from that of the interrupted run; resume "
                f"with {saved}, or start another folder"
            )
        return
    if saved.exists():
        raise RunFolderError(f"{run_dir}: holds a run already; resume it or choose another folder")


def _write_data_record(
    run_dir: Path,
    config: TrainingConfig,
    train: dict[str, list[Sample]],
    validation: dict[str, list[Sample]],
) -> None:
    def describe(samples: Sequence[Sample]) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for sample in samples:
            groups.setdefault(sample.group, []).append(sample.stem)
        return groups

    record = {
        source.name: {
            "sha256": dataset_digest([*train[source.name], *validation[source.name]]),
            "train": describe(train[source.name]),
            "validation": describe(validation[source.name]),
        }
        for source in config.data
    }
    path = run_dir / "data.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
