"""Intervals on drawn patients, whose spread is known, and on files as `evaluate` writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from export.__main__ import app
from export.errors import ExportRefusedError
from export.intervals import (
    CountPair,
    HeldOutCounts,
    calibrate_intervals,
    read_counts,
    read_intervals,
)
from service.inference.contract import CountIntervalSpec
from service.segmentation.intervals import interval_of_count


def draw_counts(seed: int, patients: int = 8, images: int = 5) -> HeldOutCounts:
    """Patients with an error of their own, images with another, and a nucleus or two by chance."""
    random = np.random.default_rng(seed)
    pairs = []
    for patient in range(patients):
        shift = random.normal(0, 0.06)
        for image in range(images):
            truth = int(random.choice([0, 4, 12, 40, 90, 150, 300]))
            noise = np.exp(shift + random.normal(0, 0.08))
            predicted = max(0, round(truth * noise + random.normal(0, 1.5)))
            pairs.append(CountPair(f"p{patient}", f"p{patient}_{image}", predicted, truth))
    return HeldOutCounts(tuple(pairs))


def holds(spec: CountIntervalSpec, pair: CountPair) -> bool:
    interval = interval_of_count(
        pair.predicted,
        lower_ratio=spec.lower_ratio,
        upper_ratio=spec.upper_ratio,
        allowance=spec.allowance,
        level=spec.level,
        method=spec.method,
    )
    return interval.lower <= pair.truth <= interval.upper


def test_new_patients_are_covered_as_often_as_stated() -> None:
    covered, measured = [], []
    for seed in range(60):
        found = calibrate_intervals(draw_counts(seed), level=0.9)
        fresh = draw_counts(1000 + seed, patients=4).pairs
        covered.append(np.mean([holds(found.spec, pair) for pair in fresh]))
        measured.append(found.coverage.images)
    assert 0.88 < np.mean(covered) < 0.96
    # Leaving out a patient tells what happens to a new one.
    assert np.mean(measured) == pytest.approx(np.mean(covered), abs=0.03)


def test_near_empty_images_have_an_interval_too() -> None:
    spec = calibrate_intervals(draw_counts(3)).spec
    assert spec.allowance > 0
    found = interval_of_count(
        0,
        lower_ratio=spec.lower_ratio,
        upper_ratio=spec.upper_ratio,
        allowance=spec.allowance,
        level=spec.level,
        method=spec.method,
    )
    assert found.lower == 0
    assert 1 <= found.upper <= 10


def test_every_patient_weighs_the_same() -> None:
    """A hundred bad images of one patient in nine move the interval no more than one would."""
    good = tuple(CountPair(f"p{n}", f"p{n}_{i}", 100, 100) for n in range(20) for i in range(3))
    one = HeldOutCounts((*good, CountPair("bad", "bad_0", 100, 150)))
    many = HeldOutCounts((*good, *(CountPair("bad", f"bad_{i}", 100, 150) for i in range(100))))
    assert calibrate_intervals(one).spec.upper_ratio == calibrate_intervals(many).spec.upper_ratio
    # Counted image by image the bad ones would be the larger part.
    assert calibrate_intervals(many).spec.upper_ratio < 1.01


def test_the_left_out_patient_has_no_say_in_its_own_interval() -> None:
    good = tuple(CountPair(f"p{n}", f"p{n}_{i}", 100, 100) for n in range(10) for i in range(4))
    bad = tuple(CountPair("odd", f"odd_{i}", 100, 160) for i in range(4))
    coverage = calibrate_intervals(HeldOutCounts((*good, *bad))).coverage
    odd = next(item for item in coverage.by_patient if item.patient == "odd")
    assert (odd.images, odd.covered) == (4, 0)
    assert coverage.images == pytest.approx(40 / 44)
    assert coverage.patients == pytest.approx(10 / 11)


def test_the_widths_are_those_of_the_stated_intervals() -> None:
    pairs = tuple(CountPair(f"p{n}", f"p{n}_{i}", 90, 90 + 12) for n in range(6) for i in range(4))
    found = calibrate_intervals(HeldOutCounts(pairs))
    # Just above (12 - 1) / (90 + 10): from floor(90 - 11.01) to ceil(90 + 11.01), and no wider.
    assert found.coverage.images == 1
    assert found.coverage.mean_width == 24
    assert found.coverage.median_relative_width == pytest.approx(24 / 90)
    assert found.guaranteed == pytest.approx(0.9 * 6 / 7)


@pytest.mark.parametrize(
    ("patients", "images", "words"),
    [(2, 20, "3 patients or more, not 2"), (3, 2, "too few for an interval of 90%: it takes 9")],
)
def test_too_little_is_refused(patients: int, images: int, words: str) -> None:
    with pytest.raises(ExportRefusedError, match=words):
        calibrate_intervals(draw_counts(0, patients, images))


def metrics_file(folder: Path, name: str, patients: range, **changes: Any) -> Path:
    """What `python -m export evaluate` writes, as far as it is read."""
    images = [
        {
            "stem": f"p{patient}_{image}",
            "group": f"p{patient}",
            "truth_count": 100.0,
            "predicted_count": 100.0 + patient,
        }
        for patient in patients
        for image in range(5)
    ]
    document = {
        "dataset": "drawn",
        "split": f"groups {patients}",
        "model": {"name": name, "version": "1.0.0", "sha256": "0" * 64, "provider": "CPU"},
        "test_time_augmentation": "none",
        "annotation": ["instances"],
        "images": images,
        **changes,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_the_command_reads_folds_and_writes_what_a_contract_takes(tmp_path: Path) -> None:
    folds = [metrics_file(tmp_path, f"fold{n}", range(2 * n, 2 * n + 2)) for n in range(3)]
    out = tmp_path / "made" / "intervals.json"
    result = CliRunner().invoke(app, ["intervals", *map(str, folds), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "covered" in result.output
    spec = read_intervals(out)
    assert (spec.images, spec.patients, spec.level) == (30, 6, 0.9)
    assert spec == calibrate_intervals(read_counts(folds)).spec
    document = json.loads(out.read_text())
    assert [source["model"] for source in document["sources"]] == [
        "fold0:1.0.0",
        "fold1:1.0.0",
        "fold2:1.0.0",
    ]
    assert len(document["coverage"]["by_patient"]) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seen": {"training": ["p4"]}}, "the model was trained on p4"),
        ({"annotation": ["binary"]}, "do not tell nuclei apart"),
        ({"test_time_augmentation": "flips4"}, "different test-time augmentation"),
        ({"images": [{"stem": "x"}]}, "no metrics.json"),
        ({"model": None}, "no metrics.json"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folds = [
        metrics_file(tmp_path, "good", range(4)),
        metrics_file(tmp_path, "other", range(4, 8), **changes),
    ]
    with pytest.raises(ExportRefusedError, match=words):
        read_counts(folds)


def test_an_image_held_out_twice_is_refused(tmp_path: Path) -> None:
    folds = [metrics_file(tmp_path, name, range(4)) for name in ("one", "two")]
    with pytest.raises(ExportRefusedError, match="p0_0 came before"):
        read_counts(folds)


@pytest.mark.parametrize("text", ["", "{}", '{"count_interval": {"level": 2}}', "[]"])
def test_other_files_are_no_intervals(tmp_path: Path, text: str) -> None:
    path = tmp_path / "intervals.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExportRefusedError, match=r"is no intervals\.json"):
        read_intervals(path)
