"""Mistakes that people make with `python -m export`: one line that names fault and remedy."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from export.__main__ import app
from service.inference.session import ModelSession


@pytest.fixture
def data(tmp_path: Path, test_data: Path) -> Path:
    root = tmp_path / "data"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        shutil.copyfile(test_data / folder / "nucls_test_1.png", root / folder / "nucls_test_1.png")
    return root


def message(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    # Whatever a command shows of its progress, the complaint is one line.
    lines = [line for line in result.output.splitlines() if ":" in line]
    assert len(lines) == 1, result.output
    return lines[0]


def test_a_folder_that_is_no_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    order = ("--validation", data, "--name", "mine", "--version", "1.0.0", "--out", tmp_path / "m")
    text = message("model", tmp_path / "run", *order)
    assert "run is no finished run folder" in text
    assert "config.json: no such file" in text
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("mistake", "fault", "remedy"),
    [
        ("group", "no group matches '*7'", "there are nucls_test"),
        ("size", "256x256 px but its annotation nucls_test_1.png is 256x128", "both at one size"),
        ("mask", "one number (255) for", "rename the folder labels/ to masks/"),
        ("orphan", "1 annotations without an image", "put the image into images/"),
        ("out", "out: File exists", "name another folder"),
    ],
)
def test_mistakes_with_evaluate(
    mistake: str, fault: str, remedy: str, data: Path, tiny_session: ModelSession, tmp_path: Path
) -> None:
    label = data / "labels" / "nucls_test_1.png"
    labels = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    if mistake == "size":
        cv2.imwrite(str(label), labels[:128])
    elif mistake == "mask":
        cv2.imwrite(str(label), np.where(labels > 0, 255, 0).astype(np.uint8))
    elif mistake == "orphan":
        cv2.imwrite(str(data / "labels" / "other_1.png"), labels)
    elif mistake == "out":
        (tmp_path / "out").write_text("a note", "utf-8")
    groups = ["--groups", "7"] if mistake == "group" else []
    result = CliRunner().invoke(
        app,
        ["evaluate", str(tiny_session.path), str(data), "--out", str(tmp_path / "out"), *groups],
    )
    assert result.exit_code == 1, result.output
    last = result.output.splitlines()[-1]
    assert fault in last
    assert remedy in last
