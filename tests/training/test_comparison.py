"""Runs compared from their folders alone; nothing of Keras is loaded."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.comparison import compare_runs
from training.config import DataSource, TrainingConfig
from training.history import write_history
from training.run_folder import RunFolderError


def write_run(
    folder: Path,
    dice: Sequence[float],
    *,
    held_out: str = "p02",
    digest: str = "a",
    crop_px: int = 64,
) -> Path:
    """What a finished run leaves, as far as a comparison reads it."""
    config = TrainingConfig(
        architecture="unet",
        data=(DataSource(name="mine", path=Path("mine"), validation_groups=(held_out,)),),
        epochs=len(dice),
        learning_rate=1e-3 if folder.name == "first" else 2e-3,
        crop_px=crop_px,
    )
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    groups = {f"p0{k}": [f"p0{k}_1", f"p0{k}_2"] for k in range(4)}
    held = {held_out: groups.pop(held_out)}
    splits = {"sha256": digest, "validation_sha256": digest, "train": groups, "validation": held}
    (folder / "data.json").write_text(json.dumps({"mine": splits}), encoding="utf-8")
    keys = ("loss", "iou", "accuracy", "auc", "average_precision")
    rows = [
        {"epoch": epoch, "seconds": 30.0, "learning_rate": 1e-3, "dice": 0.9, "val_dice": value}
        | {prefix + key: value for key in keys for prefix in ("", "val_")}
        for epoch, value in enumerate(dice, start=1)
    ]
    write_history(folder / "history.csv", rows)
    return folder


def test_figures_stand_beside_each_other_with_their_differences(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.5, 0.8, 0.7])
    second = write_run(tmp_path / "second", [0.6, 0.75])
    comparison = compare_runs([first, second])
    figures = {row[0]: row[1:] for row in comparison.figures()}
    assert figures["Dice"] == ["0.8000", "0.7500 (-0.0500)"]
    assert figures["best epoch"] == ["2 of 3", "2 of 2"]
    assert figures["minutes"] == ["1.5", "1.0"]
    # What is configured alike is not listed.
    assert comparison.differences() == [["epochs", "3", "2"], ["learning_rate", "0.001", "0.002"]]
    assert comparison.doubts == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held_out": "p03"}, "judged on different images, 2 only by first (p02_1, p02_2)"),
        ({"held_out": "p03"}, "first was trained on 2 of the images that the other is judged on"),
        ({"digest": "b"}, "validation images or annotations of mine changed"),
        ({"crop_px": 96}, "tiles of 64 px and second on tiles of 96 px"),
    ],
)
def test_runs_that_may_not_be_compared_say_why(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    first = write_run(tmp_path / "first", [0.8])
    second = write_run(tmp_path / "second", [0.7], **change)
    assert words in " ".join(compare_runs([first, second]).doubts)


def test_the_command_writes_a_page_and_tells_by_its_status(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "first", [0.5, 0.8]),
        write_run(tmp_path / "second", [0.6, 0.75]),
        write_run(tmp_path / "<other>", [0.6, 0.75], held_out="p03"),
    ]
    without_keras = (
        "import sys\n"
        "for name in ('tensorflow', 'keras'): sys.modules[name] = None\n"
        "from training.__main__ import main\n"
        "main()\n"
    )
    for runs, status in ((folders[:2], 0), (folders, 1)):
        page = tmp_path / f"{len(runs)}.html"
        ended = subprocess.run(
            [sys.executable, "-c", without_keras, "compare", *map(str, runs), "--out", str(page)],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == status, ended.stdout + ended.stderr
        assert "0.7500 (-0.0500)" in ended.stdout
        assert ("not comparable" in ended.stdout) == (status == 1)
        text = page.read_text("utf-8")
        assert text.count("<polyline") == 4 * len(runs)
        assert ("Not comparable." in text) == (status == 1)
        assert "<other>" not in text
        assert "<script" not in text


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.8])
    with pytest.raises(RunFolderError, match="two or more different run folders"):
        compare_runs([first, first])
    (tmp_path / "none").mkdir()
    with pytest.raises(RunFolderError, match=r"no run folder, config\.json is missing"):
        compare_runs([first, tmp_path / "none"])
    second = write_run(tmp_path / "second", [0.7])
    (second / "history.csv").unlink()
    with pytest.raises(RunFolderError, match="no epoch was finished; `python -m training resume"):
        compare_runs([first, second])
    (second / "data.json").write_text("{", "utf-8")
    with pytest.raises(RunFolderError, match=r"data\.json or history\.csv is missing or spoilt"):
        compare_runs([first, second])
