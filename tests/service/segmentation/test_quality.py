"""Flags: figures against a reference."""

from dataclasses import replace

import numpy as np
import pytest

from service.segmentation.quality import QualityFlag, judge_quality
from service.segmentation.quality_figures import QualityFigures
from service.segmentation.quality_reference import Comparison, Gaussian, QualityReference

NAMES = ["blur", "too_little_tissue", "stain_shift", "magnification_mismatch", "merged_nuclei"]
GOOD = QualityFigures(
    tissue_fraction=0.9,
    bands=np.array([0.0, -0.5, -0.5]),
    stain=np.zeros(6),
    median_core_px=160.0,
    size=np.array([7.3, 7.8]),
    merged_share=0.1,
)


def around(centre: list[float]) -> Gaussian:
    """A Gaussian of deviation 0.3 about `centre`."""
    random = np.random.default_rng(3)
    return Gaussian.fit(np.array(centre) + random.normal(0, 0.3, (200, len(centre))))


REFERENCE = QualityReference(
    least_sharpness=-3.0,
    least_tissue=0.1,
    stain=Comparison((around([0.0] * 6),), (around([2.0] * 6),), 0.0),
    magnification=Comparison(
        (around([7.3, 7.8, 0.0, -0.5, -0.5]),), (around([5.3, 5.8, 0.5, 0.0, -0.2]),), 0.0
    ),
    median_core_px=160.0,
    most_median_core_px=500.0,
    most_merged_share=0.3,
)


def judge(
    figures: QualityFigures, reference: QualityReference = REFERENCE
) -> dict[str, QualityFlag]:
    return {flag.name: flag for flag in judge_quality(figures, reference, mpp=0.25)}


def fired(figures: QualityFigures) -> list[str]:
    return [name for name, flag in judge(figures).items() if flag.fired]


def test_a_usual_image_fires_nothing() -> None:
    flags = judge(GOOD)
    assert list(flags) == NAMES
    assert all(flag.assessed and not flag.fired for flag in flags.values())


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        (replace(GOOD, bands=np.array([-2.5, -1.5, -0.5])), "blur"),
        (replace(GOOD, tissue_fraction=0.03), "too_little_tissue"),
        (replace(GOOD, stain=np.full(6, 2.0)), "stain_shift"),
        (
            replace(
                GOOD,
                size=np.array([5.3, 5.8]),
                bands=np.array([0.5, 0.0, -0.2]),
                median_core_px=40.0,
            ),
            "magnification_mismatch",
        ),
        (replace(GOOD, median_core_px=640.0), "magnification_mismatch"),
        (replace(GOOD, merged_share=0.4), "merged_nuclei"),
    ],
)
def test_each_flag_fires_on_its_own_and_says_what_to_do(figures: QualityFigures, name: str) -> None:
    assert fired(figures) == [name]
    flag, usual = judge(figures)[name], judge(GOOD)[name]
    assert flag.message != usual.message
    assert len(flag.message) > 60
    assert flag.value is not None
    assert flag.threshold is not None
    assert (flag.value < flag.threshold) == (flag.direction == "below")


def test_the_estimated_resolution_is_told() -> None:
    coarse = replace(GOOD, size=np.array([5.3, 5.8]), bands=np.array([0.5, 0.0, -0.2]))
    assert judge(coarse)["magnification_mismatch"].value == pytest.approx(0.5, rel=0.01)
    fine = judge(replace(GOOD, median_core_px=640.0))["magnification_mismatch"]
    assert fine.value == pytest.approx(0.125)
    assert fine.direction == "below"
    assert "0.12 um/px" in fine.message


def test_without_a_reference_only_tissue_is_assessed_and_the_rest_says_why() -> None:
    flags = judge(GOOD, QualityReference())
    assert [name for name, flag in flags.items() if flag.assessed] == ["too_little_tissue"]
    for name in set(NAMES) - {"too_little_tissue"}:
        assert flags[name].threshold is None
        assert "carries no reference" in flags[name].message
    empty = judge(replace(GOOD, tissue_fraction=0.0), QualityReference())
    assert empty["too_little_tissue"].fired


def test_what_hides_the_image_is_not_reported_twice() -> None:
    empty = judge(replace(GOOD, tissue_fraction=0.0, stain=np.full(6, 9.0)))
    assert empty["too_little_tissue"].fired
    assert not any(
        empty[name].assessed for name in ("blur", "stain_shift", "magnification_mismatch")
    )
    blurred = judge(replace(GOOD, bands=np.array([-4.0, -4.0, 0.0]), median_core_px=900.0))
    assert not blurred["magnification_mismatch"].assessed


def test_blur_under_noise_is_told_by_the_sharpness_without_it() -> None:
    reference = replace(REFERENCE, least_clear_sharpness=-5.0)
    noisy = replace(GOOD, clear_sharpness=-6.0)
    flag = judge(noisy, reference)["blur"]
    assert flag.fired
    assert flag.value == -6.0
    assert flag.threshold == -5.0
    assert "noise taken off" in flag.unit
    assert not judge(replace(GOOD, clear_sharpness=-4.0), reference)["blur"].fired
    # A file from before knows nothing of it.
    assert not judge(noisy)["blur"].fired


def test_a_stain_that_hides_the_nuclei_is_judged_by_the_tissue() -> None:
    colour = Comparison((around([0.0] * 6),), (around([2.0] * 6),), 0.0)
    reference = replace(REFERENCE, colour=colour)
    hidden = replace(GOOD, stain=None, colour=np.full(6, 2.0))
    assert judge(hidden, reference)["stain_shift"].fired
    usual = judge(replace(hidden, colour=np.zeros(6)), reference)["stain_shift"]
    assert usual.assessed
    assert not usual.fired
    assert not judge(hidden)["stain_shift"].assessed
    # Where there are nuclei, they decide.
    assert not judge(replace(hidden, stain=np.zeros(6)), reference)["stain_shift"].fired


def test_tints_go_before_the_stain_of_older_files() -> None:
    tints = Comparison((around([0.0] * 4),), (around([2.0] * 4),), 0.0)
    reference = replace(REFERENCE, tints=tints)
    usual = replace(GOOD, tints=np.zeros(4))
    assert not judge(usual, reference)["stain_shift"].fired
    assert judge(replace(usual, tints=np.full(4, 2.0)), reference)["stain_shift"].fired
    # Densities that only the older figure looks at differ between laboratories.
    assert not judge(replace(usual, stain=np.full(6, 2.0)), reference)["stain_shift"].fired
    assert judge(replace(usual, stain=np.full(6, 2.0)))["stain_shift"].fired


def test_hues_go_before_tints_and_need_every_part() -> None:
    near, far = around([0.0] * 8), around([2.0] * 8)
    tints = Comparison((around([0.0] * 4),), (around([2.0] * 4),), 0.0)
    reference = replace(REFERENCE, tints=tints, hues=Comparison((near,), (far,), 0.0))
    usual = replace(GOOD, tints=np.zeros(4), contrast=np.zeros(2), colour=np.zeros(6))
    assert not judge(usual, reference)["stain_shift"].fired
    shifted = replace(
        usual, tints=np.full(4, 2.0), contrast=np.full(2, 2.0), colour=np.full(6, 2.0)
    )
    assert judge(shifted, reference)["stain_shift"].fired
    # How strong the stain is, which only the older figures know, is no matter here.
    dense = replace(usual, colour=np.array([0.0, 0.0, 2.0, 0.0, 0.0, 2.0]))
    assert judge(dense, reference)["stain_shift"].value == pytest.approx(
        judge(usual, reference)["stain_shift"].value
    )
    assert not judge(replace(usual, contrast=None), reference)["stain_shift"].assessed


def test_without_nuclei_what_stands_out_and_the_tissue_tell_the_stain() -> None:
    near, far = around([0.0] * 8), around([2.0] * 8)
    comparison = Comparison((near,), (far,), 0.0)
    reference = replace(REFERENCE, hues=comparison, tissue_hues=comparison)
    hidden = replace(GOOD, contrast=np.full(2, 2.0), colour=np.full(6, 2.0))
    assert judge(hidden, reference)["stain_shift"].fired
    usual = replace(hidden, contrast=np.zeros(2), colour=np.zeros(6))
    flag = judge(usual, reference)["stain_shift"]
    assert flag.assessed
    assert not flag.fired
    assert not judge(replace(usual, colour=None), reference)["stain_shift"].assessed


def test_finest_detail_is_asked_for_only_as_the_image_was_scanned() -> None:
    reference = replace(REFERENCE, least_finest=-4.0, finest_mpp=0.25)
    enlarged = replace(GOOD, finest=-4.5)
    flag = judge(enlarged, reference)["blur"]
    assert flag.fired
    assert (flag.value, flag.threshold) == (-4.5, -4.0)
    assert "enlarged" in flag.message
    assert not judge(replace(GOOD, finest=-3.5), reference)["blur"].fired
    assert not judge(enlarged)["blur"].fired
    # An image of a coarser scale has been enlarged by the service itself.
    resampled = {flag.name: flag for flag in judge_quality(enlarged, reference, mpp=0.5)}
    assert not resampled["blur"].fired
    blurred = judge(replace(enlarged, bands=np.array([-2.5, -1.5, -0.5])), reference)["blur"]
    assert blurred.fired
    assert "out of focus" in blurred.message


def test_size_alone_tells_half_and_twice_the_resolution() -> None:
    usual = (around([7.3, 7.8]),)
    reference = replace(
        REFERENCE,
        magnification=None,
        coarse=Comparison(usual, (around([5.3, 5.8]),), 0.0),
        fine=Comparison(usual, (around([9.3, 9.8]),), 0.0),
    )
    assert not judge(GOOD, reference)["magnification_mismatch"].fired
    coarse = judge(replace(GOOD, size=np.array([5.3, 5.8])), reference)["magnification_mismatch"]
    assert coarse.fired
    assert coarse.direction == "above"
    assert coarse.value == pytest.approx(0.5, rel=0.01)
    fine = judge(replace(GOOD, size=np.array([9.3, 9.8])), reference)["magnification_mismatch"]
    assert fine.fired
    assert fine.direction == "below"
    assert fine.value == pytest.approx(0.125, rel=0.01)
    # A texture of another scanner is no other scale.
    other = replace(GOOD, bands=np.array([0.5, 0.0, -0.2]))
    assert not judge(other, reference)["magnification_mismatch"].fired
    few = judge(replace(GOOD, size=None), reference)["magnification_mismatch"]
    assert not few.assessed
    assert few.threshold is not None
    half = replace(reference, fine=None)
    assert not judge(replace(GOOD, size=np.array([9.3, 9.8])), half)["magnification_mismatch"].fired


def test_a_reference_survives_the_model_file() -> None:
    stain, scale = REFERENCE.stain, REFERENCE.magnification
    assert stain is not None
    assert scale is not None
    values = {
        "blur.least_sharpness": -3.0,
        "stain.most_log_odds": 0.0,
        **stain.usual[0].values("stain.usual.0"),
        **stain.changed[0].values("stain.shifted.0"),
        "a_name_of_later_years": 1.0,
    }
    read = QualityReference.from_values(values)
    assert read.least_sharpness == -3.0
    assert read.stain is not None
    row = np.full(6, 0.9)
    assert read.stain.log_odds(row) == pytest.approx(stain.log_odds(row), abs=1e-2)
    assert read.magnification is None
    del values["stain.usual.0.factor.2.3"]
    assert QualityReference.from_values(values).stain is None
    assert QualityReference.from_values(None) == QualityReference()


def test_the_density_is_a_normal_density() -> None:
    random = np.random.default_rng(5)
    rows = random.normal((1.0, -2.0), (0.5, 2.0), (4000, 2))
    gaussian = Gaussian.fit(rows, shrinkage=0.0)
    at = np.array([1.5, 0.0])
    expected = -np.log(2 * np.pi * 0.5 * 2.0) - 0.5 * (1.0 + 1.0)
    assert gaussian.log_density(at) == pytest.approx(expected, abs=0.1)
    with pytest.raises(ValueError, match="1 row"):
        Gaussian.fit(rows[:1])
