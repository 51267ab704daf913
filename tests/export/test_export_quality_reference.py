"""Learning the reference of the quality flags, and flags that then fire on what was spoilt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract import TrainedRun
from export.quality_reference import (
    LEAST_ROWS,
    _compare,
    choose_training_samples,
    learn_quality_reference,
    training_folders,
)
from export.spoil import (
    blur,
    double_middle,
    enlarge_again,
    grey,
    halve,
    invert,
    swap_channels,
    turn_hue,
)
from service.inference.session import ModelSession
from service.segmentation.quality import QualityFlag
from service.segmentation.quality_reference import QualityReference
from service.segmenter import Segmenter
from training.datasets import Sample, read_dataset

Pixels = NDArray[np.uint8]
SIDE_PX = 192


@pytest.fixture(scope="module")
def crops(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Overlapping crops of the committed tiles but patient 08's: enough rows to learn from."""
    root = tmp_path_factory.mktemp("data") / "crops"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for path in sorted((test_data / kind).glob("*.png")):
            if path.stem.startswith("tnbc_p08"):
                continue
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert image is not None
            number = 0
            for y in range(0, image.shape[0] - SIDE_PX + 1, 64):
                for x in range(0, image.shape[1] - SIDE_PX + 1, 64):
                    number += 1
                    crop = image[y : y + SIDE_PX, x : x + SIDE_PX]
                    cv2.imwrite(str(root / kind / f"{path.stem}_{number}.png"), crop)
    return root


@pytest.fixture(scope="module")
def values(tiny_session: ModelSession, crops: Path) -> dict[str, float]:
    samples = read_dataset(crops)
    assert len(samples) >= LEAST_ROWS
    separation = tiny_session.contract.separation
    return learn_quality_reference(tiny_session, separation, {"crops": samples})


@pytest.fixture(scope="module")
def flags_of(
    tiny_session: ModelSession, values: dict[str, float]
) -> Callable[[Pixels], dict[str, QualityFlag]]:
    # A loaded session is shared by other tests: a copy gets the reference.
    session = object.__new__(ModelSession)
    session.__dict__.update(tiny_session.__dict__)
    session.contract = tiny_session.contract.model_copy(update={"quality_reference": values})
    segmenter = Segmenter(session)
    return lambda pixels: {flag.name: flag for flag in segmenter.segment(pixels).quality}


def test_every_flag_can_be_assessed_after_learning(
    flags_of: Callable[[Pixels], dict[str, QualityFlag]], he_pixels: Pixels
) -> None:
    flags = flags_of(he_pixels)
    assert len(flags) == 5
    assert all(flag.assessed for flag in flags.values()), flags
    for name in ("blur", "too_little_tissue"):
        assert not flags[name].fired


@pytest.mark.parametrize("sigma_px", [2.0, 3.0])
def test_blur_is_noticed_on_a_patient_that_was_not_learnt_from(
    flags_of: Callable[[Pixels], dict[str, QualityFlag]], he_pixels: Pixels, sigma_px: float
) -> None:
    assert flags_of(blur(he_pixels, sigma_px))["blur"].fired


@pytest.mark.parametrize("degrees", [-90, 90, 180])
def test_a_turned_hue_is_noticed(
    flags_of: Callable[[Pixels], dict[str, QualityFlag]], test_data: Path, degrees: int
) -> None:
    bgr = cv2.imread(str(test_data / "images" / "tnbc_p07_1.png"))
    assert bgr is not None
    pixels = np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)
    assert not flags_of(pixels)["stain_shift"].fired
    # Another stain must be noticed as such, or by the nuclei that are not found in it.
    flag = flags_of(turn_hue(pixels, degrees))["stain_shift"]
    assert flag.fired or not flag.assessed


@pytest.mark.parametrize(
    "recolour",
    [
        lambda pixels: swap_channels(pixels, (2, 1, 0)),
        lambda pixels: swap_channels(pixels, (1, 2, 0)),
        grey,
        invert,
    ],
    ids=["BGR", "GBR", "grey", "negative"],
)
def test_other_colours_are_noticed_whatever_nuclei_are_found(
    flags_of: Callable[[Pixels], dict[str, QualityFlag]],
    he_pixels: Pixels,
    recolour: Callable[[Pixels], Pixels],
) -> None:
    assert not flags_of(he_pixels)["stain_shift"].fired
    assert flags_of(recolour(he_pixels))["stain_shift"].fired


def test_what_was_enlarged_is_noticed_unless_the_service_did_it(
    flags_of: Callable[[Pixels], dict[str, QualityFlag]],
    values: dict[str, float],
    tiny_session: ModelSession,
    he_pixels: Pixels,
) -> None:
    flag = flags_of(enlarge_again(he_pixels))["blur"]
    assert flag.fired
    assert "enlarged" in flag.message
    assert flag.value is not None
    assert flag.value < values["blur.least_finest"]
    assert values["blur.finest_mpp"] == tiny_session.contract.input.mpp


def test_half_the_resolution_is_noticed(
    flags_of: Callable[[Pixels], dict[str, QualityFlag]], test_data: Path
) -> None:
    bgr = cv2.imread(str(test_data / "images" / "tnbc_p07_1.png"))
    assert bgr is not None
    pixels = np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)
    clean, half = flags_of(pixels), flags_of(halve(pixels))
    assert not clean["magnification_mismatch"].fired
    assert half["magnification_mismatch"].fired
    estimate = half["magnification_mismatch"].value
    assert estimate is not None
    assert 0.36 < estimate <= 0.5


def test_what_older_files_state_is_learnt_no_more(values: dict[str, float]) -> None:
    flags = {name.split(".")[0] for name in values}
    assert flags == {"blur", "tissue", "hues", "tissue_hues", "coarse", "fine", "merged"}


def test_the_data_set_that_the_model_is_for_weighs_most() -> None:
    random = np.random.default_rng(4)
    usual = {name: [list(random.normal(0, 1, (40, 2)))] for name in ("own", "other")}
    turned = {name: [list(random.normal(3, 1, (40, 2)))] * 2 for name in ("own", "other")}
    weighed = _compare("flag", "changed", usual, turned, home="own")
    even = _compare("flag", "changed", usual, turned)
    assert weighed.keys() == even.keys()
    for name, share in (("usual.0", 0.8), ("usual.1", 0.2), ("changed.1", 0.8), ("changed.3", 0.2)):
        more = weighed[f"flag.{name}.offset"] - even[f"flag.{name}.offset"]
        assert more == pytest.approx(np.log(2 * share), abs=1e-4)
    alone = _compare("flag", "changed", {"own": usual["own"]}, {"own": turned["own"]}, home="own")
    assert alone["flag.usual.0.offset"] == even["flag.usual.0.offset"]


def test_counterstains_may_differ_as_data_sets_do_and_more() -> None:
    random = np.random.default_rng(4)
    usual = {
        name: [list(random.normal(at, 1, (400, 8)))] for name, at in (("own", 0), ("other", 3))
    }
    turned = {name: [list(random.normal(9, 1, (400, 8)))] for name in ("own", "other")}
    values = _compare("hues", "shifted", usual, turned)
    hues = QualityReference.from_values(values).hues
    assert hues is not None
    of = hues.usual[0].factor
    # Of the counterstain: 1, and twice the standard deviation of two means that are 3 apart.
    for figure, variance in ((0, 1.0), (5, 1.0), (6, 1 + 4 * 4.5), (7, 1 + 4 * 4.5)):
        assert np.linalg.inv(of.T @ of)[figure, figure] == pytest.approx(variance, rel=0.25)
    alone = {"own": usual["own"]}
    values = _compare("hues", "shifted", alone, {"own": turned["own"]})
    assert values["hues.usual.0.factor.7.7"] == pytest.approx(1.0, rel=0.2)


def test_an_enlarged_image_keeps_its_size_and_loses_its_finest_detail() -> None:
    random = np.random.default_rng(2)
    pixels = random.integers(0, 255, (41, 60, 3)).astype(np.uint8)
    enlarged = enlarge_again(pixels)
    assert enlarged.shape == pixels.shape
    steps = [np.abs(np.diff(image.astype(float), axis=1)).mean() for image in (pixels, enlarged)]
    assert steps[1] < steps[0] / 3


def test_channels_are_put_in_another_order() -> None:
    pixels = np.zeros((2, 2, 3), dtype=np.uint8) + np.array([10, 20, 30], np.uint8)
    assert swap_channels(pixels, (1, 2, 0))[0, 0].tolist() == [20, 30, 10]
    assert invert(pixels)[0, 0].tolist() == [245, 235, 225]
    assert len(set(grey(pixels)[0, 0].tolist())) == 1


def test_the_middle_is_enlarged_to_twice_the_resolution() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[10:30, 15:45] = 200
    assert double_middle(pixels).shape == pixels.shape
    assert (double_middle(pixels) == 200).all()
    assert double_middle(pixels[:1, :1]).shape == (2, 2, 3)


def test_an_empty_field_is_noticed(
    flags_of: Callable[[Pixels], dict[str, QualityFlag]],
) -> None:
    noise = np.random.default_rng(0).normal((235, 230, 238), 5, (256, 256, 3))
    flags = flags_of(np.clip(noise, 0, 255).astype(np.uint8))
    assert [name for name, flag in flags.items() if flag.fired] == ["too_little_tissue"]


def test_too_few_images_leave_out_what_they_cannot_support(
    tiny_session: ModelSession, samples: list[Sample]
) -> None:
    separation = tiny_session.contract.separation
    few = learn_quality_reference(tiny_session, separation, {"few": samples[:2]})
    assert set(few) == {"tissue.least_fraction"}
    assert learn_quality_reference(tiny_session, separation, {}) == {}


def test_only_images_that_were_trained_on_are_learnt_from(
    tiny_run: TrainedRun, test_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "nucls").symlink_to(test_data, target_is_directory=True)
    assert training_folders(tiny_run, test_data) == []
    (folder,) = training_folders(tiny_run, tmp_path)
    (chosen,) = choose_training_samples(tiny_run, [folder]).values()
    assert {sample.stem for sample in chosen} == {"nucls_test_1", "nucls_test_2", "nucls_test_5"}
    nothing = replace(tiny_run, splits={"nucls": {"train": {}, "validation": {}}})
    assert choose_training_samples(nothing, [folder]) == {}


def test_hue_turns_the_right_way() -> None:
    red = np.full((2, 2, 3), (255, 0, 0), dtype=np.uint8)
    assert turn_hue(red, 120)[0, 0].argmax() == 1
    assert turn_hue(red, -120)[0, 0].argmax() == 2
    assert np.array_equal(turn_hue(red, 360), red)
