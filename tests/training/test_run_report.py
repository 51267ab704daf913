"""One short real run, and what stands in its folder and on its page."""

import base64
import json
import re
from io import StringIO
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from rich.console import Console

from training.best_model import load_best_model
from training.config import DataSource, TrainingConfig
from training.datasets import read_dataset
from training.evaluate import evaluate_run
from training.findings import findings
from training.fit import RunFolderError, fit
from training.history import read_history, write_history
from training.progress import Progress, announce
from training.run_folder import read_run_record
from training.run_report import report_run
from training.tiles import judge_tiles


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    # The patients' folder is relative, as in a recipe: what the report says must find it again.
    return TrainingConfig(
        architecture="unet",
        data=(DataSource(name="discs", path=Path(), validation_groups=("p02",)),),
        crop_px=32,
        batch_size=8,
        steps_per_epoch=2,
        epochs=2,
        warmup_steps=2,
        seed=3,
    )


@pytest.fixture(scope="module")
def run(
    config: TrainingConfig, disc_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(config, folder, data_root=disc_folder, quiet=True)
    return folder


def test_the_run_folder_holds_all_that_the_docs_promise(
    run: Path, config: TrainingConfig, disc_folder: Path
) -> None:
    names = {path.name for path in run.iterdir()} - {"report.html"}
    promised = {"config.json", "data.json", "model.keras", "history.csv", "curves.png"}
    assert promised | {"tensorboard", "metrics.json", "environment.json"} == names
    saved = TrainingConfig.model_validate_json((run / "config.json").read_text())
    assert saved == config
    data = json.loads((run / "data.json").read_text())["discs"]
    assert set(data["train"]) == {"p00", "p01"}
    assert set(data["validation"]) == {"p02"}
    rows = read_history(run / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    for key in ("dice", "iou", "accuracy", "auc", "average_precision"):
        assert 0 <= rows[-1][key] <= 1
        assert 0 <= rows[-1][f"val_{key}"] <= 1
    best = json.loads((run / "metrics.json").read_text())
    assert best["val_dice"] == max(row["val_dice"] for row in rows)
    assert any((run / "tensorboard").iterdir())
    (session,) = json.loads((run / "environment.json").read_text())
    assert session["data_root"] == str(disc_folder)
    assert session["backend"].startswith("tensorflow ")
    model = keras.models.load_model(run / "model.keras", compile=False)
    assert getattr(model, "optimizer", None) is None
    with pytest.raises(RunFolderError, match="holds a run already"):
        fit(config, run, quiet=True)
    with pytest.raises(RunFolderError, match="no interrupted run to resume"):
        fit(config, run, quiet=True, resume=True)


def test_images_without_a_nucleus_leave_valid_json(run: Path, tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "p1_1.png"), np.full((64, 64, 3), 220, np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / "p1_1.png"), np.zeros((64, 64), np.uint16))
    evaluate_run(run, tmp_path, tmp_path / "out")

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    text = (tmp_path / "out" / "metrics.json").read_text("utf-8")
    figures = json.loads(text, parse_constant=refuse)["images"]["p1_1"]
    assert figures["auc"] is None


def test_the_report_stands_alone_and_says_who_was_judged(run: Path) -> None:
    page = report_run(run).read_text("utf-8")
    assert not re.search(r"<script|<link|https?://|src=\"(?!data:)", page)
    pictures = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    # Three of the worst and three of the best tiles: image, annotation, prediction, errors.
    assert len(pictures) == 6
    for encoded in pictures:
        array = np.frombuffer(base64.b64decode(encoded), np.uint8)
        decoded = cv2.imdecode(array, cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == (32, 4 * 32 + 3 * 4, 3)
    best = read_run_record(run).best
    for text in (
        f"<b>{best['val_dice']:.3f}</b>Dice",
        "4 images of 2 patients, judged on 2 images of 1 patient that it never",
        "One patient judges this run",
        "<td>p00, p01</td>",
        "worst: p02_",
        "python -m export model",
        # On its own validation patients a file would be judged where it was tuned.
        "models/mine/1.0.0/model.onnx OTHER_PATIENTS",
        "--groups p02",
        "learning_rate",
        "tensorflow",
    ):
        assert text in page, text
    assert page.count("<svg") == 4
    assert len(page) < 400_000


def test_without_the_data_the_report_says_how_to_get_the_tiles(run: Path, tmp_path: Path) -> None:
    page = report_run(run, tmp_path).read_text("utf-8")
    assert "data:image" not in page
    assert "neither images/ with labels/" in page
    assert "--data-root DIR" in page


def test_tiles_are_judged_worst_first_on_the_pixels_that_they_show(
    run: Path, disc_folder: Path
) -> None:
    samples = [s for s in read_dataset(disc_folder) if s.group == "p02"]
    tiles = judge_tiles(load_best_model(run), samples, 32, 4)
    assert [tile.dice for tile in tiles] == sorted(tile.dice for tile in tiles)
    assert len({(tile.stem, tile.corner) for tile in tiles}) == len(tiles) > 6
    for tile in tiles:
        pixels, labels = next(s for s in samples if s.stem == tile.stem).read()
        x, y = tile.corner
        np.testing.assert_array_equal(tile.pixels, pixels[y : y + 32, x : x + 32])
        np.testing.assert_array_equal(tile.truth, labels[y : y + 32, x : x + 32] > 0)


def test_piped_progress_is_a_line_an_epoch(run: Path, config: TrainingConfig) -> None:
    written = StringIO()
    progress = Progress(config, run / "history.csv", Console(file=written))
    progress.on_train_begin()
    for row in read_history(run / "history.csv"):
        epoch = int(row["epoch"]) - 1
        progress.on_epoch_begin(epoch)
        for step in range(config.steps_per_epoch):
            progress.on_train_batch_end(step, row)
        progress.on_epoch_end(epoch, row)
    progress.on_train_end()
    lines = written.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    assert all("Dice" in line and len(line) <= 80 for line in lines)


def test_what_is_trained_is_said_first(config: TrainingConfig, disc_folder: Path) -> None:
    written = StringIO()
    samples = read_dataset(disc_folder)
    split = {"discs": samples[:4]}, {"discs": samples[4:]}
    announce(config, *split, 1_900_000, Console(file=written, width=200))
    text = " ".join(written.getvalue().split())
    assert "training on discs: 4 images of 2 patients" in text
    assert "judging on discs: 2 images of 1 patient" in text
    assert "unet, 1.9 million parameters, 2 epochs of 2 steps" in text


def test_findings_name_what_the_curves_show(run: Path, tmp_path: Path) -> None:
    for name in ("config.json", "data.json"):
        text = (run / name).read_text("utf-8").replace('"epochs": 2', '"epochs": 10')
        (tmp_path / name).write_text(text, "utf-8")
    (row, _) = read_history(run / "history.csv")
    by_heart = [
        row
        | {
            "epoch": k,
            "loss": 1 / k,
            "dice": 0.9,
            "val_dice": 0.7,
            "val_loss": 0.5 + abs(k - 3) / 9,
        }
        for k in range(1, 11)
    ]
    write_history(tmp_path / "history.csv", by_heart)
    text = " ".join(findings(read_run_record(tmp_path)))
    assert "rose after epoch 3" in text
    assert "0.20 above that on the validation patients" in text
    assert "more epochs are likely to pay" not in text
    rising = [row | {"epoch": k, "dice": 0.4, "val_dice": 0.04 * k} for k in range(1, 9)]
    write_history(tmp_path / "history.csv", rising)
    text = " ".join(findings(read_run_record(tmp_path)))
    assert "hardly learnt: its best validation Dice is 0.32" in text
    assert "ended at epoch 8 of 10" in text
    write_history(
        tmp_path / "history.csv", rising + [r | {"epoch": r["epoch"] + 8} for r in rising]
    )
    assert "ended at" not in " ".join(findings(read_run_record(tmp_path)))
