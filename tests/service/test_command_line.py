"""`python -m service` on the command line: what it writes, prints and refuses."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

RunKaryon = Callable[..., subprocess.CompletedProcess[str]]


def test_a_bad_start_says_why_in_a_sentence(
    karyon: RunKaryon, serving_environment: dict[str, str], tmp_path: Path
) -> None:
    done = karyon(serving_environment, "--models-dir", str(tmp_path), "--port", "0")
    assert done.returncode == 3
    assert done.stderr.startswith("Karyon cannot start: no model in")
    assert "Traceback" not in done.stderr
    wrong = karyon({**serving_environment, "KARYON_PROT": "1"})
    assert wrong.returncode == 2
    assert "KARYON_PORT" in wrong.stderr
    wrong = karyon(serving_environment, "--port", "99999")
    assert wrong.returncode == 2
    assert "port" in wrong.stderr


def test_segment_writes_its_files_and_lists_failures(
    karyon: RunKaryon,
    serving_environment: dict[str, str],
    tiny_models_dir: Path,
    test_data: Path,
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    images = test_data / "images"
    good = [images / "nucls_test_1.png", images / "nucls_test_2.png"]
    out = tmp_path / "new" / "results"
    done = karyon(
        serving_environment, "segment", str(good[0]), str(bad), str(tmp_path / "missing.png"),
        str(good[1]), "--out", str(out), "--models-dir", str(tiny_models_dir), "--mpp", "0.25",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "2 of 4 images failed" in done.stderr
    assert f"FAILED {bad}" in done.stderr
    assert "missing.png" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    for path in good:
        document = json.loads((out / f"{path.stem}.json").read_text("utf-8"))
        labels = cv2.imread(str(out / f"{path.stem}_labels.png"), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        assert labels.max() == document["count"] == len(document["nuclei"])
        assert document["image"]["mpp_source"] == "parameter"
        mask = cv2.imread(str(out / f"{path.stem}_mask.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert ((mask > 0) == (labels > 0)).all()
        assert (out / f"{path.stem}_overlay.png").stat().st_size > 1000
    assert sorted(path.suffix for path in out.iterdir()) == [".json"] * 2 + [".png"] * 6


def test_segment_refuses_to_overwrite_one_result_with_another(
    karyon: RunKaryon,
    serving_environment: dict[str, str],
    tiny_models_dir: Path,
    test_data: Path,
    tmp_path: Path,
) -> None:
    image = test_data / "images" / "nucls_test_1.png"
    twin = tmp_path / image.name
    twin.write_bytes(image.read_bytes())
    done = karyon(
        serving_environment, "segment", str(image), str(twin), "--out", str(tmp_path / "out"),
        "--models-dir", str(tiny_models_dir),
    )  # fmt: skip
    assert done.returncode == 2
    assert "nucls_test_1" in done.stderr
    assert not (tmp_path / "out").exists()


def test_segment_refuses_to_overwrite_an_image_with_a_result(
    karyon: RunKaryon,
    serving_environment: dict[str, str],
    tiny_models_dir: Path,
    test_data: Path,
    tmp_path: Path,
) -> None:
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    annotation = b"a mask that somebody drew by hand"
    (tmp_path / "a.png").write_bytes(image)
    (tmp_path / "a_mask.png").write_bytes(annotation)
    done = karyon(
        serving_environment, "segment", str(tmp_path / "a.png"), str(tmp_path / "a_mask.png"),
        "--out", str(tmp_path / "." / "sub" / ".."), "--models-dir", str(tiny_models_dir),
    )  # fmt: skip
    assert done.returncode == 2
    assert "a_mask.png is an image to segment" in done.stderr
    assert (tmp_path / "a_mask.png").read_bytes() == annotation


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "2"], "Option threshold: Input should be less than 1"),
        (["--out", "{images}/nucls_test_1.png"], "Cannot start: [Errno"),
        (["--model", "other"], "Cannot start: no model 'other'"),
    ],
)
def test_segment_says_what_is_wrong_in_a_line(
    karyon: RunKaryon,
    serving_environment: dict[str, str],
    tiny_models_dir: Path,
    test_data: Path,
    tmp_path: Path,
    options: list[str],
    words: str,
) -> None:
    images = test_data / "images"
    done = karyon(
        serving_environment, "segment", str(images / "nucls_test_1.png"), "--out",
        str(tmp_path / "out"), "--models-dir", str(tiny_models_dir),
        *(option.format(images=images) for option in options),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert len(done.stderr.splitlines()) == 1


def test_counts_go_where_standard_output_goes_also_from_a_terminal(
    serving_environment: dict[str, str], tiny_models_dir: Path, test_data: Path, tmp_path: Path
) -> None:
    """`segment ... > counts.tsv`: the progress bar on the terminal must not swallow the counts."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    image = test_data / "images" / "nucls_test_1.png"
    controller, terminal = pty.openpty()
    counts = tmp_path / "counts.tsv"
    with counts.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [
                sys.executable, "-m", "service", "segment", str(image), "--out",
                str(tmp_path / "out"), "--models-dir", str(tiny_models_dir),
            ],
            env={**serving_environment, "TERM": "xterm"}, stdout=file, stderr=terminal,
            timeout=60, check=False,
        )  # fmt: skip
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 0
    assert re.fullmatch(r"\S+nucls_test_1\.png\t\d+ nuclei\n", counts.read_text("utf-8"))


def test_openapi_prints_the_document(
    karyon: RunKaryon, serving_environment: dict[str, str]
) -> None:
    done = karyon(serving_environment, "openapi")
    assert done.returncode == 0
    assert json.loads(done.stdout)["info"]["title"] == "Karyon"


def test_help_teaches(karyon: RunKaryon, serving_environment: dict[str, str]) -> None:
    shown = karyon(serving_environment, "--help").stdout
    for word in ("serve", "segment", "openapi", "KARYON_"):
        assert word in shown
    assert "--port" in karyon(serving_environment, "serve", "--help").stdout
