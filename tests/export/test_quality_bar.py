"""The flags on real patients that nothing was learnt from; needs the project's data."""

from pathlib import Path

import numpy as np
import pytest

from export.evaluate import choose_samples
from export.spoil import blur
from service.segmentation.quality_figures import QualityFigures, measure_quality


def measured(pixels: np.ndarray) -> QualityFigures:
    maps = np.zeros((*pixels.shape[:2], 1), dtype=np.uint8)
    return measure_quality(pixels, maps, [], probability_threshold=0.5, seed_threshold=0.5)


@pytest.fixture(scope="module")
def tnbc(shared: Path) -> Path:
    folder = shared / "data" / "tnbc"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/tnbc")
    return folder


def test_one_sharpness_separates_clean_from_blurred_across_patients(tnbc: Path) -> None:
    """The threshold is set on patients 01-06 and holds on 07 and 08."""

    def sharpness(groups: str, sigma_px: float) -> list[float]:
        values = []
        for sample in choose_samples(tnbc, groups):
            pixels = sample.read()[0]
            value = measured(blur(pixels, sigma_px) if sigma_px else pixels).sharpness
            assert value is not None
            values.append(value)
        return values

    training = "01,02,03,04,05,06"
    threshold = (min(sharpness(training, 0)) + max(sharpness(training, 2))) / 2
    assert np.mean(np.array(sharpness("07,08", 0)) < threshold) <= 0.1
    for sigma_px in (2.0, 3.0):
        assert np.mean(np.array(sharpness("07,08", sigma_px)) < threshold) >= 0.95


def test_real_fields_have_tissue_even_sparse_ones(tnbc: Path) -> None:
    fractions = [
        measured(sample.read()[0]).tissue_fraction for sample in choose_samples(tnbc, None)
    ]
    assert min(fractions) > 0.15
