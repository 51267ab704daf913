"""What is measured in an image: on real tissue, on glass, on drawn nuclei."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.segmentation.measurements import measure
from service.segmentation.quality_figures import QualityFigures, measure_quality

Pixels = NDArray[np.uint8]


def figures_of(pixels: Pixels, labels: NDArray[np.int32] | None = None) -> QualityFigures:
    """Measure with perfect maps of `labels`."""
    if labels is None:
        labels = np.zeros(pixels.shape[:2], dtype=np.int32)
    maps = (labels > 0)[..., None].astype(np.uint8) * np.uint8(255)
    nuclei = measure(labels, np.ascontiguousarray(maps[..., 0]))
    return measure_quality(pixels, maps, nuclei, probability_threshold=0.5, seed_threshold=0.5)


def test_tissue_fraction_of_a_half_covered_slide(he_pixels: Pixels) -> None:
    half = he_pixels.copy()
    half[:, 256:] = 240
    assert figures_of(he_pixels).tissue_fraction > 0.95
    assert figures_of(half).tissue_fraction == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (220, 160, 200)])
def test_a_flat_field_is_no_tissue_whatever_its_colour(colour: tuple[int, int, int]) -> None:
    random = np.random.default_rng(1)
    noisy = np.clip(random.normal(colour, 5, (256, 256, 3)), 0, 255).astype(np.uint8)
    flat = np.full((256, 256, 3), colour, dtype=np.uint8)
    for pixels in (flat, noisy):
        assert figures_of(pixels).tissue_fraction < 0.02
        assert figures_of(flat).sharpness is None


def test_sharpness_falls_with_blur_and_not_with_contrast(he_pixels: Pixels) -> None:
    values = [figures_of(he_pixels).sharpness]
    values += [
        figures_of(cv2.GaussianBlur(he_pixels, (0, 0), sigma).astype(np.uint8)).sharpness
        for sigma in (1.0, 2.0, 3.0)
    ]
    sharp = [value for value in values if value is not None]
    assert len(sharp) == 4
    assert all(a - b > 0.5 for a, b in pairwise(sharp))
    pale = figures_of((he_pixels * 0.6 + 100).astype(np.uint8)).sharpness
    assert pale == pytest.approx(sharp[0], abs=0.25)


def test_the_finest_detail_goes_with_enlarging_and_not_with_contrast(he_pixels: Pixels) -> None:
    plain = figures_of(he_pixels).finest
    half = cv2.resize(he_pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert plain is not None
    for method in (cv2.INTER_LINEAR, cv2.INTER_CUBIC):
        again = cv2.resize(half, he_pixels.shape[1::-1], interpolation=method).astype(np.uint8)
        # Moved by a pixel, too: no grid of the enlarging is looked for.
        for pixels in (again, np.ascontiguousarray(again[1:, 1:])):
            finest = figures_of(pixels).finest
            assert finest is not None
            assert finest < plain - 0.8
    pale = figures_of((he_pixels * 0.6 + 100).astype(np.uint8)).finest
    assert pale == pytest.approx(plain, abs=0.3)
    assert figures_of(np.full((128, 128, 3), 240, dtype=np.uint8)).finest is None


def test_sharpness_looks_at_tissue_only(he_pixels: Pixels) -> None:
    whole = figures_of(he_pixels).sharpness
    on_glass = np.full((1024, 1024, 3), 240, dtype=np.uint8)
    on_glass[:512, :512] = he_pixels
    assert figures_of(on_glass).sharpness == pytest.approx(whole, abs=0.3)


def test_a_large_image_is_measured_like_its_tissue(
    he_pixels: Pixels, he_labels: NDArray[np.int32]
) -> None:
    large = np.full((2048, 2560, 3), 240, dtype=np.uint8)
    labels = np.zeros(large.shape[:2], dtype=np.int32)
    large[512:1024, 1024:1536] = he_pixels
    labels[512:1024, 1024:1536] = he_labels
    small, found = figures_of(he_pixels, he_labels), figures_of(large, labels)
    assert found.tissue_fraction == pytest.approx(small.tissue_fraction / 20, abs=0.01)
    assert found.sharpness == pytest.approx(small.sharpness, abs=0.3)
    assert found.median_core_px == pytest.approx(small.median_core_px, rel=0.05)
    assert small.stain is not None
    assert found.stain == pytest.approx(small.stain, abs=0.02)


def test_stain_follows_the_colours_of_nuclei_and_of_the_rest() -> None:
    pixels = np.full((128, 128, 3), (230, 150, 200), dtype=np.uint8)
    labels = np.zeros((128, 128), dtype=np.int32)
    cv2.circle(labels, (64, 64), 30, 1, -1)
    pixels[labels == 1] = (90, 60, 150)
    stain = figures_of(pixels, labels).stain
    assert stain is not None
    nucleus_red_blue, _, other_red_blue, _, nucleus_depth, other_depth = stain
    assert nucleus_red_blue > 0.1  # haematoxylin takes red
    assert other_red_blue < 0  # eosin takes green, and more blue than red
    assert nucleus_depth > other_depth
    assert figures_of(pixels).stain is None


def test_tints_follow_the_dyes_and_not_the_lamp(
    he_pixels: Pixels, he_labels: NDArray[np.int32]
) -> None:
    tints = figures_of(he_pixels, he_labels).tints
    assert tints is not None
    assert tints[2] > tints[0] > 0  # haematoxylin takes red, and eosin is in the nuclei too
    grey_glass = (he_pixels * np.array([0.75, 0.65, 0.7])).astype(np.uint8)
    assert figures_of(grey_glass, he_labels).tints == pytest.approx(tints, abs=0.04)
    hsv = cv2.cvtColor(he_pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 15) % 180
    turned = figures_of(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8), he_labels).tints
    assert turned is not None
    assert tints[0] - turned[0] > 0.08
    assert figures_of(he_pixels).tints is None


def test_nuclei_of_the_tissues_own_density_give_finite_tints() -> None:
    random = np.random.default_rng(2)
    pixels = random.integers(150, 156, (128, 128, 3)).astype(np.uint8)
    labels = np.zeros((128, 128), dtype=np.int32)
    cv2.circle(labels, (64, 64), 30, 1, -1)
    tints = figures_of(pixels, labels).tints
    assert tints is not None
    assert np.isfinite(tints).all()
    assert np.abs(tints).max() <= 1


def test_core_size_follows_the_scale(he_pixels: Pixels, he_labels: NDArray[np.int32]) -> None:
    whole = figures_of(he_pixels, he_labels)
    half = figures_of(
        cv2.resize(he_pixels, (256, 256), interpolation=cv2.INTER_AREA).astype(np.uint8),
        np.ascontiguousarray(he_labels[::2, ::2]),
    )
    assert whole.size is not None
    assert half.size is not None
    assert whole.size - half.size == pytest.approx([2.0, 2.0], abs=0.3)


def test_few_nuclei_give_no_size() -> None:
    labels = np.zeros((128, 128), dtype=np.int32)
    pixels = np.full((128, 128, 3), 200, dtype=np.uint8)
    for number in range(5):
        cv2.circle(labels, (10 + 16 * number, 60), 6, number + 1, -1)
        figures = figures_of(pixels, labels)
        assert figures.median_core_px is figures.scale is figures.merged_share is None
        assert (figures.size is None) == (number < 3)


def test_merged_outlines_are_counted() -> None:
    labels = np.zeros((200, 400), dtype=np.int32)
    for number in range(16):
        x, y = 25 + 45 * (number % 8), 50 + 90 * (number // 8)
        cv2.circle(labels, (x, y), 10, number + 1, -1)
        if number < 4:  # two discs in one label
            cv2.circle(labels, (x, y + 19), 10, number + 1, -1)
    pixels = np.full((200, 400, 3), 200, dtype=np.uint8)
    assert figures_of(pixels, labels).merged_share == pytest.approx(4 / 16)


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (16, 16), (63, 200), (65, 71)])
def test_small_images_are_measured_as_far_as_they_allow(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    figures = figures_of(pixels)
    assert 0 <= figures.tissue_fraction <= 1
    if min(size) < 64:
        assert figures.bands is figures.stain is None
