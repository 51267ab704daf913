import csv
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from training.callbacks import averaged_weights, learning_rate_at, save_model
from training.config import DataSource, TrainingConfig
from training.crops import load_images, validation_tiles
from training.datasets import DatasetError
from training.fit import RunFolderError, build_model, compile_model, fit, read_sources
from training.lineage import copy_records

REPOSITORY = Path(__file__).resolve().parents[2]
# Several trainings one after the other: two minutes by themselves, many on a crowded machine.
PATIENT = pytest.mark.timeout(1200)
EAGERLY = pytest.mark.usefixtures("eagerly")


def weights(run_dir: Path) -> list[np.ndarray]:
    return keras.models.load_model(run_dir / "model.keras", compile=False).get_weights()


def history(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "history.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in csv.DictReader(file)
        ]


@PATIENT
def test_a_killed_run_from_random_weights_resumes(
    tmp_path: Path, tiny_config: TrainingConfig
) -> None:
    fit(tiny_config, tmp_path / "whole", quiet=True)
    fit(tiny_config, tmp_path / "cut", quiet=True, stop_after_epoch=1)
    fit(tiny_config, tmp_path / "cut", quiet=True, resume=True)
    assert history(tmp_path / "cut") == history(tmp_path / "whole")


@pytest.mark.slow
@PATIENT
@EAGERLY
def test_a_killed_run_resumes_as_if_it_had_not_been_killed(
    tmp_path: Path, tiny_config: TrainingConfig, shared: Path
) -> None:
    # Pretrained, so that one kill falls between the phases and one into the second.
    encoder = str(shared / "weights" / "vgg16_block1_block2_partial_notop.h5")
    changes = {
        "architecture": "vgg16_unet",
        "encoder_weights": encoder,
        "frozen_epochs": 1,
        "epochs": 3,
        "ema_momentum": 0.5,
    }
    config = tiny_config.model_copy(update=changes)
    fit(config, tmp_path / "whole", quiet=True)
    fit(config, tmp_path / "cut", quiet=True, stop_after_epoch=1)
    assert (tmp_path / "cut" / "state.npz").is_file()
    fit(config, tmp_path / "cut", quiet=True, stop_after_epoch=2, resume=True)
    fit(config, tmp_path / "cut", quiet=True, resume=True)
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    for one, other in zip(weights(tmp_path / "cut"), weights(tmp_path / "whole"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert not (tmp_path / "cut" / "state.npz").exists()


def test_a_mistyped_path_leaves_nothing_behind(tmp_path: Path, tiny_config: TrainingConfig) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        fit(
            tiny_config.model_copy(
                update={
                    "data": (DataSource(name="a", path=Path("none"), validation_groups=("b",)),)
                }
            ),
            tmp_path / "run",
            quiet=True,
        )
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_configuration_is_refused(
    tmp_path: Path, tiny_config: TrainingConfig
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(tiny_config.to_json())
    np.savez(run / "state.npz", epochs_done=1)
    with pytest.raises(RunFolderError, match="configuration differs"):
        fit(tiny_config.model_copy(update={"seed": 4}), run, quiet=True, resume=True)


def test_a_mixed_precision_model_is_saved_as_float32(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((None, None, 3))
        outputs = keras.layers.Conv2D(1, 3, padding="same", name="maps")(inputs)
        model = keras.Model(inputs, outputs)
    finally:
        keras.config.set_dtype_policy("float32")
    save_model(model, tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@EAGERLY
def test_the_average_stands_in_for_the_weights_and_gives_them_back(
    tiny_config: TrainingConfig,
) -> None:
    config = tiny_config.model_copy(update={"ema_momentum": 0.75})
    model = build_model(config, Path())
    compile_model(model, config, freeze_encoder=False)
    head = model.get_layer("maps").kernel
    random = np.random.default_rng(0)
    steps = []
    for _ in range(3):
        pixels = random.uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
        model.train_on_batch(pixels, random.integers(0, 2, (1, 32, 32, 2)).astype(np.float32))
        steps.append(np.asarray(head).copy())
    # The average starts at the first step's weights.
    average = steps[0]
    for weights_then in steps[1:]:
        average = 0.75 * average + 0.25 * weights_then
    with averaged_weights(model):
        np.testing.assert_allclose(np.asarray(head), average, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(head), steps[-1])


@EAGERLY
def test_what_is_saved_is_what_was_validated(tmp_path: Path, tiny_config: TrainingConfig) -> None:
    config = tiny_config.model_copy(update={"ema_momentum": 0.9, "epochs": 1})
    fit(config, tmp_path / "run", quiet=True)
    (row,) = history(tmp_path / "run")
    train, validation = read_sources(config, Path())
    del train
    held_out = load_images([s for samples in validation.values() for s in samples], 2)
    model = keras.models.load_model(tmp_path / "run" / "model.keras", compile=False)
    compile_model(model, config, freeze_encoder=False)
    scores = model.evaluate(
        *validation_tiles(held_out, config.crop_px),
        batch_size=config.batch_size,
        verbose=0,
        return_dict=True,
    )
    assert scores["loss"] == pytest.approx(float(row["val_loss"]), rel=1e-4)


def test_a_run_starts_from_a_model_of_its_own_kind_only(
    tmp_path: Path, tiny_config: TrainingConfig
) -> None:
    path = str(tmp_path / "initial.keras")
    initial = build_model(tiny_config, tmp_path)
    save_model(initial, Path(path))
    fine_tuning = tiny_config.model_copy(update={"initial_model": path})
    model = build_model(fine_tuning, tmp_path)
    for one, other in zip(model.get_weights(), initial.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(RunFolderError, match="is a unet, not a vgg16_unet with 2 channels"):
        build_model(fine_tuning.model_copy(update={"architecture": "vgg16_unet"}), tmp_path)
    with pytest.raises(RunFolderError, match="not found"):
        build_model(tiny_config.model_copy(update={"initial_model": "none.keras"}), tmp_path)


def test_a_run_keeps_the_record_of_the_runs_that_it_started_from(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for run in (first, second):
        run.mkdir()
        for name in ("config.json", "data.json"):
            (run / name).write_text(run.name)
    copy_records(first, second / "initial")
    copy_records(first, second / "teacher1")
    copy_records(second, third / "initial")
    assert (third / "initial" / "data.json").read_text() == "second"
    assert (third / "initial" / "initial" / "config.json").read_text() == "first"
    assert (third / "initial" / "teacher1" / "data.json").read_text() == "first"


def test_the_learning_rate_warms_up_and_falls_to_its_final_share() -> None:
    config = TrainingConfig(
        data=(DataSource(name="a", path=Path(), validation_groups=("b",)),),
        epochs=10,
        steps_per_epoch=10,
        warmup_steps=10,
        learning_rate=1e-2,
        final_learning_rate_share=0.1,
    )
    rates = [learning_rate_at(step, config) for step in range(config.total_steps + 1)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(1e-2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-3)


@pytest.mark.slow
@PATIENT
def test_a_run_under_jax_is_read_and_judged_under_tensorflow(
    tmp_path: Path, disc_folder: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    config = TrainingConfig(
        architecture="unet",
        data=(DataSource(name="discs", path=disc_folder, validation_groups=("p02",)),),
        crop_px=32,
        batch_size=1,
        steps_per_epoch=2,
        epochs=1,
        ema_momentum=0.5,
    )
    recipe.write_text(config.to_json())
    run = tmp_path / "run"
    command = [sys.executable, "-m", "training", "fit", str(recipe), "--run-dir", str(run)]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best model" in done.stdout
    assert keras.backend.backend() == "tensorflow"
    model = keras.models.load_model(run / "model.keras", compile=False)
    maps = np.asarray(model(np.full((1, 32, 64, 3), 128, np.float32), training=False))
    assert maps.shape == (1, 32, 64, 2)
    assert np.isfinite(maps).all()
