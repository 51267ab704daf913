import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from export.calibrate import (
    UNUSED_SEED_THRESHOLD,
    Calibration,
    CalibrationImage,
    calibrate,
    run_network,
)
from export.errors import ExportRefusedError
from service.inference.session import ModelSession
from service.segmentation.instances import separate
from training.datasets import Sample
from training.matching import count_instances, count_pixels

MPP = 0.25
RADIUS_PX = 9
SPECK_RADIUS_PX = 3


def draw(group: str, shift_px: int, *, halo: int = 110, channels: int = 2) -> CalibrationImage:
    """Discs in touching pairs, each in a halo of less probability, and specks that are no nuclei.

    ```
       .-----.              truth     two discs that touch
      ( A | B )   o speck   map       255 inside, `halo` for 4 px around, 200 on the speck
       '-----'              distance  peaks at the centres, 100 where the discs touch
    ```
    """
    labels = np.zeros((160, 160), dtype=np.int32)
    nucleus = np.zeros((160, 160), dtype=np.uint8)
    distance = np.zeros((160, 160), dtype=np.uint8)
    label = 0
    for row in range(3):
        for column in range(2):
            y, x = 28 + 50 * row, 30 + 70 * column + shift_px
            for centre in ((x - RADIUS_PX, y), (x + RADIUS_PX, y)):
                cv2.circle(nucleus, centre, RADIUS_PX + 4, halo, -1)
            for centre in ((x - RADIUS_PX, y), (x + RADIUS_PX, y)):
                label += 1
                cv2.circle(labels, centre, RADIUS_PX, label, -1)
                cv2.circle(nucleus, centre, RADIUS_PX, 255, -1)
                cv2.circle(distance, centre, RADIUS_PX, 100, -1)
            for centre in ((x - RADIUS_PX, y), (x + RADIUS_PX, y)):
                cv2.circle(distance, centre, RADIUS_PX // 2, 230, -1)
            cv2.circle(nucleus, (x, y + 22), SPECK_RADIUS_PX, 200, -1)
            cv2.circle(distance, (x, y + 22), SPECK_RADIUS_PX, 230, -1)
    maps = np.dstack([nucleus, distance][:channels])
    return CalibrationImage(f"{group}_{shift_px}", group, maps, labels)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate([draw("p1", 0), draw("p1", 4), draw("p2", 7)], mpp=MPP)


def test_the_chosen_thresholds_leave_out_halo_and_specks_and_part_the_pairs(
    calibration: Calibration,
) -> None:
    chosen = calibration.chosen
    # 110 of 255 is 0.43, a seed must lie between 100 and 230 of 255, a speck has 29 px or 1.8 um2.
    assert chosen.probability_threshold > 110 / 255
    assert 100 / 255 < chosen.seed_threshold < 230 / 255
    assert chosen.min_area_um2 > 29 * MPP**2
    assert chosen.dice == pytest.approx(1.0, abs=0.02)
    assert chosen.f1 == pytest.approx(1.0)
    assert chosen.count_bias == pytest.approx(0.0)


def test_the_choice_stands_on_a_plateau(calibration: Calibration) -> None:
    best = max(trial.objective for trial in calibration.trials)
    peaks = [trial for trial in calibration.trials if trial.objective == best]
    assert len(peaks) > 1, "the drawing must leave a choice"
    assert calibration.chosen.plateau == max(trial.plateau for trial in calibration.trials)
    # Its neighbours on the grid are as good: none is the edge where pairs begin to merge.
    assert calibration.chosen.plateau == pytest.approx(best, abs=1e-9)


def test_the_figures_are_those_of_the_services_own_separation(calibration: Calibration) -> None:
    images = [draw("p1", 0), draw("p1", 4), draw("p2", 7)]
    # A filter that drops something: specks by their area, or all that is not sure throughout.
    trial = next(
        trial
        for trial in calibration.trials
        if (trial.probability_threshold, trial.min_area_um2, trial.min_mean_probability)
        == (0.2, 2.0, 0.85)
    )
    assert trial.f1 < 1
    found = [
        separate(
            image.maps,
            probability_threshold=trial.probability_threshold,
            seed_threshold=trial.seed_threshold,
            min_area_px=trial.min_area_um2 / MPP**2,
            min_mean_probability=trial.min_mean_probability,
        )
        for image in images
    ]
    pixels = [count_pixels(i.labels, labels) for i, labels in zip(images, found, strict=True)]
    instances = [count_instances(i.labels, labels) for i, labels in zip(images, found, strict=True)]
    assert trial.dice == (pixels[0] + pixels[1] + pixels[2]).dice
    assert trial.f1 == (instances[0] + instances[1] + instances[2]).f1
    total = sum(counts.predicted_count for counts in instances)
    assert trial.count_bias == pytest.approx(total / 36 - 1)


def test_patients_that_err_in_opposite_ways_do_not_excuse_each_other() -> None:
    much = draw("p1", 0)
    few = draw("p2", 0)
    # Of 12 nuclei, p1 annotates 6 fewer than are seen and p2 shows 6 fewer than are annotated.
    much_labels = np.where(much.labels > 6, 0, much.labels).astype(np.int32)
    few_maps = np.where((few.labels > 6)[..., None], 0, few.maps).astype(np.uint8)
    images = [
        CalibrationImage("a", "p1", much.maps, much_labels),
        CalibrationImage("b", "p2", few_maps, few.labels),
    ]
    grid = {
        "probability_thresholds": [0.5],
        "seed_thresholds": [0.6],
        "min_areas_um2": [6.0],
        "min_mean_probabilities": [0.0],
    }
    (trial,) = calibrate(images, mpp=MPP, **grid).trials
    assert trial.count_bias == pytest.approx(0.0)
    assert trial.group_bias == pytest.approx((6 / 6 + 6 / 12) / 2)
    assert trial.objective == pytest.approx((trial.dice + trial.f1) / 2 - trial.group_bias)


def test_faint_false_nuclei_are_dropped_without_tightening_the_outlines() -> None:
    """Nuclei whose rim is as faint as the middle of what is none: no one threshold has both."""
    labels = np.zeros((128, 128), dtype=np.int32)
    maps = np.zeros((128, 128, 2), dtype=np.uint8)
    for number, (x, y) in enumerate([(32, 32), (96, 32), (32, 96), (96, 96)], start=1):
        cv2.circle(labels, (x, y), 12, number, -1)
        for channel in range(2):
            plane = np.ascontiguousarray(maps[..., channel])
            cv2.circle(plane, (x, y), 12, 140, -1)
            cv2.circle(plane, (x, y), 10, 255, -1)
            maps[..., channel] = plane
    for x, y in [(64, 32), (32, 64), (96, 64), (64, 96)]:
        faint = np.ascontiguousarray(maps[..., 0])
        cv2.circle(faint, (x, y), 9, 150, -1)
        maps[..., 0] = faint
    image = CalibrationImage("a", "p1", maps, labels)
    chosen = calibrate([image], mpp=MPP).chosen
    assert chosen.probability_threshold < 140 / 255
    assert chosen.min_mean_probability > 150 / 255
    assert (chosen.dice, chosen.f1, chosen.count_bias) == (1, 1, 0)
    alone = calibrate([image], mpp=MPP, min_mean_probabilities=[0.0]).chosen
    assert alone.dice < 0.95


def test_a_model_without_distance_map_has_no_seeds_to_choose() -> None:
    calibration = calibrate([draw("p1", 0, channels=1)], mpp=MPP)
    assert {trial.seed_threshold for trial in calibration.trials} == {UNUSED_SEED_THRESHOLD}
    assert calibration.chosen.count_bias == pytest.approx(0.0)


def test_the_table_holds_the_best_combinations(calibration: Calibration, tmp_path: Path) -> None:
    calibration.write(tmp_path / "calibration.json")
    table = json.loads((tmp_path / "calibration.json").read_text())
    assert len(calibration.trials) == table["combinations"] == 15 * 8 * 6 * 6
    assert len(table["trials"]) == 500
    assert table["chosen"] in table["trials"]
    plateaus = [trial["plateau"] for trial in table["trials"]]
    assert plateaus == sorted(plateaus, reverse=True)
    assert table["groups"] == ["p1", "p2"]
    combinations = {
        (
            t["probability_threshold"],
            t["seed_threshold"],
            t["min_area_um2"],
            t["min_mean_probability"],
        )
        for t in table["trials"]
    }
    assert len(combinations) == len(table["trials"])


@pytest.mark.parametrize("images", [[], [draw("p1", 0)]])
def test_nothing_annotated_is_nothing_to_calibrate_on(images: list[CalibrationImage]) -> None:
    blank = [
        CalibrationImage(image.stem, image.group, image.maps, np.zeros_like(image.labels))
        for image in images
    ]
    with pytest.raises(ExportRefusedError, match="annotated nuclei"):
        calibrate(blank, mpp=MPP)


def test_the_network_runs_as_the_service_runs_it(
    tiny_session: ModelSession, samples: list[Sample]
) -> None:
    found = run_network(tiny_session, samples)
    for image, sample in zip(found, samples, strict=True):
        pixels, labels = sample.read()
        expected: NDArray[np.uint8] = tiny_session.run(pixels[None])[0]
        assert np.array_equal(image.maps, expected)
        assert np.array_equal(image.labels, labels)
        assert (image.stem, image.group) == (sample.stem, sample.group)
