import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from export.__main__ import app
from export.evaluate import (
    Evaluation,
    as_document,
    choose_samples,
    evaluate,
    figures,
    write_metrics,
)
from export.report import print_table, write_picture
from service.inference.session import ModelSession
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter
from training.datasets import DatasetError, Sample
from training.matching import count_instances, count_pixels
from training.probability import count_levels


@pytest.fixture(scope="module")
def evaluation(tiny_session: ModelSession, samples: list[Sample]) -> Evaluation:
    return evaluate(Segmenter(tiny_session), samples, dataset="fixtures", split="all images")


def test_the_figures_are_those_of_what_the_service_would_answer(
    evaluation: Evaluation, tiny_session: ModelSession, samples: list[Sample]
) -> None:
    assert [image.stem for image in evaluation.images] == [sample.stem for sample in samples]
    for image, sample in zip(evaluation.images, samples, strict=True):
        pixels, truth = sample.read()
        segmentation = Segmenter(tiny_session).segment(pixels)
        assert image.instances.predicted_count == segmentation.count
        assert image.instances == count_instances(truth, segmentation.labels)
        assert image.pixels == count_pixels(truth, segmentation.labels)
    assert evaluation.model["sha256"] == tiny_session.digest
    assert evaluation.separation == {
        "probability_threshold": 0.5,
        "seed_threshold": 0.5,
        "min_area_px": 5.0 / 0.25**2,
        "min_mean_probability": 0.0,
    }


def test_pooled_figures_are_ratios_of_sums(evaluation: Evaluation) -> None:
    pooled = evaluation.pooled
    counts = [image.pixels for image in evaluation.images]
    both = sum(c.true_positive for c in counts)
    assert pooled["dice"] == pytest.approx(
        2 * both / (2 * both + sum(c.false_positive + c.false_negative for c in counts))
    )
    assert pooled["truth_count"] == sum(image.instances.truth_count for image in evaluation.images)
    assert pooled["count_bias"] == pytest.approx(
        pooled["predicted_count"] / pooled["truth_count"] - 1
    )
    assert pooled["aji"] <= pooled["iou"]
    # Colour alone finds half of it: a test model, but one on which mistakes show.
    assert 0.4 < pooled["dice"] < 0.95


def test_probabilities_and_components_are_measured(
    evaluation: Evaluation, tiny_session: ModelSession, samples: list[Sample]
) -> None:
    pooled = evaluation.pooled
    components = 0
    truths, maps = [], []
    for sample in samples:
        pixels, truth = sample.read()
        segmentation = Segmenter(tiny_session).segment(pixels)
        components += cv2.connectedComponents((segmentation.labels > 0).astype(np.uint8))[0] - 1
        truths.append(truth.ravel() > 0)
        maps.append(segmentation.probability.ravel())
    assert pooled["component_count"] == components < pooled["predicted_count"]
    assert pooled["merged_nucleus_risk"] == pytest.approx(
        1 - components / pooled["predicted_count"]
    )
    assert pooled["component_bias"] == pytest.approx(components / pooled["truth_count"] - 1)
    together = count_levels(np.concatenate(truths), np.concatenate(maps))
    assert pooled["auc"] == together.auc
    assert pooled["average_precision"] == together.average_precision
    assert pooled["ece"] == together.expected_calibration_error
    assert pooled["aji_mean"] == pytest.approx(
        np.mean([image.instances.aji for image in evaluation.images])
    )


def test_intervals_hold_the_pooled_figure_and_say_what_was_drawn(evaluation: Evaluation) -> None:
    document = as_document(evaluation)
    drawn = document["bootstrap"]
    assert (drawn["resampled"], drawn["units"], drawn["level"]) == ("groups", 3, 0.95)
    for name, (lower, upper) in drawn["intervals"].items():
        assert lower <= document["pooled"][name] <= upper


def test_every_patient_is_measured_apart(evaluation: Evaluation) -> None:
    groups = evaluation.by_group()
    assert sorted(groups) == ["nucls_test", "tnbc_p07", "tnbc_p08"]
    assert groups["tnbc_p08"] == figures([evaluation.images[-1]])


def test_one_image_has_no_r2_and_no_limits(evaluation: Evaluation) -> None:
    values = figures(evaluation.images[:1])
    assert not {"count_r2", "count_difference_lower", "count_difference_upper"} & set(values)
    assert {"count_r2", "count_difference_lower"} <= set(evaluation.pooled)


def test_the_contract_entry_is_rounded_and_named(evaluation: Evaluation) -> None:
    entry = evaluation.entry()
    assert (entry.dataset, entry.split, entry.images) == ("fixtures", "all images", 5)
    assert entry.values["dice"] == round(evaluation.pooled["dice"], 4)


def test_options_reach_the_segmentation(tiny_session: ModelSession, samples: list[Sample]) -> None:
    strict = evaluate(
        Segmenter(tiny_session),
        samples[:1],
        dataset="d",
        split="s",
        options=SegmentOptions(probability_threshold=0.99, min_area_px=400),
    )
    assert strict.separation["probability_threshold"] == 0.99
    plain = evaluate(Segmenter(tiny_session), samples[:1], dataset="d", split="s")
    assert strict.pooled["predicted_foreground"] < plain.pooled["predicted_foreground"]


def test_no_image_is_refused(tiny_session: ModelSession) -> None:
    with pytest.raises(DatasetError, match="no image"):
        evaluate(Segmenter(tiny_session), [], dataset="d", split="s")


@pytest.mark.parametrize(
    ("groups", "stems"),
    [
        ("07,08", ["tnbc_p07_1", "tnbc_p08_2"]),
        ("tnbc_p07", ["tnbc_p07_1"]),
        ("tnbc_p0[78]", ["tnbc_p07_1", "tnbc_p08_2"]),
        (" p08 ,", ["tnbc_p08_2"]),
        ("test", ["nucls_test_1", "nucls_test_2", "nucls_test_5"]),
    ],
)
def test_patients_are_chosen_by_pattern_or_ending(
    test_data: Path, groups: str, stems: list[str]
) -> None:
    assert [sample.stem for sample in choose_samples(test_data, groups)] == stems


@pytest.mark.parametrize(("groups", "words"), [("09", "no group matches"), (",", "no group in")])
def test_a_typing_error_is_no_empty_split(test_data: Path, groups: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        choose_samples(test_data, groups)
    assert len(choose_samples(test_data, None)) == 5


def test_metrics_json_holds_pooled_groups_and_images(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_metrics(evaluation, tmp_path / "metrics.json")
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document == json.loads(json.dumps(as_document(evaluation)))
    assert document["annotation"] == ["instances"]
    assert [image["stem"] for image in document["images"]][-1] == "tnbc_p08_2"
    assert document["pooled"]["dice"] == evaluation.pooled["dice"]
    roc = document["curves"]["roc"]
    assert len(roc["false_positive_rate"]) == len(roc["true_positive_rate"]) > 50
    assert sum(document["curves"]["reliability"]["pixels"]) == 3 * 256**2 + 2 * 512**2
    # A curve takes a line, or a file of a few figures would have a thousand.
    assert len((tmp_path / "metrics.json").read_text().splitlines()) < 400


def test_the_picture_shows_image_truth_and_prediction_from_worst_to_best(
    evaluation: Evaluation, tiny_session: ModelSession, samples: list[Sample], tmp_path: Path
) -> None:
    path = tmp_path / "predictions.png"
    write_picture(evaluation, Segmenter(tiny_session), samples, path)
    picture = cv2.imread(str(path))
    assert picture is not None
    # Four of the five images; panels of at most 384 px with their rims.
    assert picture.shape[1] == 3 * (384 + 8)
    assert 4 * (256 + 30) <= picture.shape[0] <= 4 * (384 + 30)
    # Green outlines of the truth in the middle column, yellow ones of the prediction on the right.
    green = np.all(np.abs(picture.astype(int) - (0, 200, 0)) < 40, axis=2)
    yellow = np.all(np.abs(picture.astype(int) - (0, 210, 255)) < 40, axis=2)
    assert green.sum() > 500
    assert yellow.sum() > 500
    assert np.nonzero(green)[1].mean() < np.nonzero(yellow)[1].mean()


def test_the_table_names_images_or_groups(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(record=True, width=120)
    print_table(evaluation, console)
    text = console.export_text()
    assert "tnbc_p08_2" in text
    assert "nucls_test " in text
    assert "95 % from" in text
    assert "by drawing 3 groups" in " ".join(text.split())
    assert f"{evaluation.pooled['dice']:.3f}" in text
    monkeypatch.setattr("export.report.TABLE_ROWS", 2)
    print_table(evaluation, console)
    text = console.export_text()
    assert "tnbc_p08_2" not in text
    assert "tnbc_p08 " in text


def test_the_command_needs_no_tensorflow(
    tiny_session: ModelSession, test_data: Path, repository: Path, tmp_path: Path
) -> None:
    blocked = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'tf2onnx'): sys.modules[name] = None\n"
        "from export.__main__ import app\n"
        "app()\n"
    )
    arguments = ["evaluate", str(tiny_session.path), str(test_data), "--groups", "08"]
    result = subprocess.run(
        [sys.executable, "-c", blocked, *arguments, "--out", str(tmp_path / "out")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "pooled" in result.stdout
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["split"] == "groups 08"
    assert [image["stem"] for image in document["images"]] == ["tnbc_p08_2"]
    assert (tmp_path / "out" / "predictions.png").stat().st_size > 10_000


def test_thresholds_of_another_file_and_averaged_copies_are_in_force_and_stated(
    tiny_session: ModelSession, test_data: Path, repository: Path, tmp_path: Path
) -> None:
    (other,) = sorted(repository.glob("models/efficientnetv2b0_unet/*/model.onnx"))[:1]
    calibrated = ModelSession.load(other, provider="cpu").contract.separation
    arguments = ["evaluate", str(tiny_session.path), str(test_data), "--groups", "07"]
    options = ["--thresholds-of", str(other), "--test-time-augmentation", "flips4"]
    result = CliRunner().invoke(app, [*arguments, *options, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["separation"] == {
        "probability_threshold": calibrated.probability_threshold,
        "seed_threshold": calibrated.seed_threshold,
        "min_area_px": calibrated.min_area_um2 / 0.25**2,
        "min_mean_probability": calibrated.min_mean_probability,
    }
    assert document["test_time_augmentation"] == "flips4"
    assert document["bootstrap"] is None
