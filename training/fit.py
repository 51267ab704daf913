"""One training run: from a configuration to a run folder.

The run folder holds

| file | what |
|---|---|
| `config.json` | the configuration, as validated |
| `data.json` | which image of which patient was in which split, and the digest of the data |
| `environment.json` | when the run was started, on which machine, by which code |
| `initial/` | the same two files of the run whose model this one started from |
| `model.keras` | the best model so far, float32, without optimizer |
| `history.csv` | one row an epoch |
| `state.npz` | what an exact resume needs; removed when the run is complete |
| `tensorboard/` | event files |
| `curves.png`, `metrics.json` | at the end: the curves, and the figures of the best epoch |
| `report.html` | written by the command line at the end: all of it on one page |
"""

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import keras

from training.architectures import ARCHITECTURES
from training.architectures.decoder import ENCODER_NAME
from training.augmentation import Augmentation
from training.callbacks import (
    AveragedValidation,
    EpochSeed,
    LearningRate,
    RunRecorder,
    TensorBoardWriter,
)
from training.config import TrainingConfig
from training.crops import CropDataset, LoadedImage, check_crop, load_images, validation_tiles
from training.datasets import DatasetError, Sample
from training.distillation import load_teachers, soften_targets
from training.history import best_row, read_history
from training.lineage import INITIAL_FOLDER, copy_records, teacher_folder
from training.losses import make_loss
from training.metrics import make_metrics
from training.progress import Progress, announce
from training.report import plot_curves
from training.run_folder import (
    RunFolderError,
    check_folder,
    check_free_space,
    configuration_digest,
    write_data_record,
    write_environment,
)
from training.run_state import RunState
from training.sources import read_sources


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
    check_folder(config, run_dir, resume=resume)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)

    train, validation = read_sources(config, data_root or Path())
    channels = len(config.channels)
    state = RunState(run_dir / "state.npz", configuration_digest(config.to_json()))
    first_epoch = state.epochs_done() if resume else 0
    crops = _training_crops(config, train)
    held_out = load_images([s for samples in validation.values() for s in samples], channels)
    _check_annotated("validation", held_out, "hold out a patient who has some")
    validation_data = validation_tiles(held_out, config.crop_px)

    model = build_model(config, data_root or Path())
    check_free_space(run_dir, model.count_params())
    # Nothing is written before all has been read: a mistyped path leaves no half-made run.
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(config.to_json(), encoding="utf-8")
    write_data_record(run_dir, config, train, validation)
    write_environment(run_dir, data_root or Path(), _backend())
    _keep_records(config, run_dir)
    if not quiet:
        announce(config, train, validation, model.count_params())
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
    _summarise(config, run_dir)
    if stop_after_epoch is None or stop_after_epoch >= config.epochs:
        state.remove()
    return run_dir / "model.keras"


def _training_crops(config: TrainingConfig, train: Mapping[str, Sequence[Sample]]) -> CropDataset:
    channels = len(config.channels)
    shown = []
    for source in config.data:
        if source.weight > 0:
            images = load_images(train[source.name], channels)
            check_crop(source.name, images, config.crop_px)
            shown.append((images, source.weight))
    everything = [image for images, _ in shown for image in images]
    _check_annotated("training", everything, "look at labels/ with `python -m training check`")
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
    return CropDataset(
        shown,
        crop_px=config.crop_px,
        batch_size=config.batch_size,
        steps=config.steps_per_epoch,
        augmentation=Augmentation(**config.augmentation.model_dump()),
        nucleus_share=config.nucleus_share,
        seed=config.seed,
    )


def _check_annotated(split: str, images: Sequence[LoadedImage], remedy: str) -> None:
    """Refuse a split without a nucleus: blank masks would have a Dice of 1 in every epoch."""
    if not any(image.targets[..., 0].any() for image in images):
        raise DatasetError(
            f"no nucleus is annotated in the {len(images)} {split} images; {remedy}, or the run's "
            "figures mean nothing"
        )


def _keep_records(config: TrainingConfig, run_dir: Path) -> None:
    """Keep the records of the runs that this one starts or learns from."""
    if config.initial_model is not None:
        copy_records(Path(config.initial_model).parent, run_dir / INITIAL_FOLDER)
    for number, teacher in enumerate(config.teachers, start=1):
        copy_records(Path(teacher).parent, run_dir / teacher_folder(number))


def _summarise(config: TrainingConfig, run_dir: Path) -> None:
    """Draw the curves and write the figures of the best epoch, if there is one."""
    history = read_history(run_dir / "history.csv")
    if history:
        plot_curves(run_dir / "history.csv", run_dir / "curves.png")
        best = best_row(history, config)
        text = json.dumps(best, indent=2) + "\n"
        (run_dir / "metrics.json").write_text(text, encoding="utf-8")


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
    # TensorFlow would make the optimizer's variables in the first step, and trace that step twice
    # for it: twice the wait before anything is learnt.
    model.optimizer.build(model.trainable_variables)


def _locate_weights(config: TrainingConfig, data_root: Path) -> str | None:
    name = config.encoder_weights
    if name is None or name == "imagenet":
        return name
    return str(name if Path(name).is_absolute() else data_root / name)


def _backend() -> dict[str, str]:
    devices = keras.distribution.list_devices()
    name = keras.backend.backend()
    return {
        "keras": keras.__version__,
        "backend": f"{name} {metadata.version(name)}",
        "devices": ", ".join(devices),
    }


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
    return callbacks if quiet else [*callbacks, Progress(config, run_dir / "history.csv")]
