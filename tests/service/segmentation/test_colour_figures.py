"""Colours of tissue without nuclei."""

import numpy as np
from numpy.typing import NDArray

from service.segmentation.colour_figures import block_density, measure_colour, measure_contrast

Pixels = NDArray[np.uint8]


def test_dark_and_pale_tissue_are_measured_apart() -> None:
    pixels = np.full((128, 128, 3), 250, dtype=np.uint8)
    pixels[:64] = (120, 60, 140)
    pixels[64:96] = (230, 150, 190)
    figures = measure_colour(block_density(pixels))
    assert figures is not None
    dark, pale = figures[:3], figures[3:]
    assert dark[2] > pale[2]
    # Eosin takes green and lets red through.
    assert pale[1] > dark[1] > 0
    assert pale[0] < 0


def test_swapped_channels_turn_the_sign(he_pixels: Pixels) -> None:
    figures = measure_colour(block_density(he_pixels))
    swapped = measure_colour(block_density(np.ascontiguousarray(he_pixels[..., ::-1])))
    assert figures is not None
    assert swapped is not None
    np.testing.assert_allclose(figures[[0, 3]], -swapped[[0, 3]], atol=1e-5)
    np.testing.assert_allclose(figures[[2, 5]], swapped[[2, 5]], atol=1e-5)


def test_glass_and_specks_have_no_colour() -> None:
    glass = np.full((128, 128, 3), 245, dtype=np.uint8)
    assert measure_colour(block_density(glass)) is None
    assert measure_colour(block_density(np.zeros((8, 8, 3), dtype=np.uint8))) is None


def test_what_stands_out_has_the_haematoxylins_direction(he_pixels: Pixels) -> None:
    density = np.full((64, 64, 3), (0.1, 0.4, 0.1), dtype=np.float32)
    density[::8, ::8] += np.array([0.6, 0.7, 0.3], dtype=np.float32)
    contrast = measure_contrast(density.reshape(-1, 3), 64 * 4)
    assert contrast is not None
    np.testing.assert_allclose(contrast, [0.3 / 1.6, 0.7 / 1.6 - 1 / 3], atol=1e-4)
    width_px = he_pixels.shape[1]
    plain = measure_contrast(block_density(he_pixels), width_px)
    swapped = measure_contrast(block_density(np.ascontiguousarray(he_pixels[..., ::-1])), width_px)
    assert plain is not None
    assert swapped is not None
    assert plain[0] > 0.05
    np.testing.assert_allclose(swapped, plain * (-1, 1), atol=1e-5)


def test_glass_has_no_contrast_and_even_tissue_no_direction() -> None:
    glass = np.full((130, 131, 3), 245, dtype=np.uint8)
    assert measure_contrast(block_density(glass), 131) is None
    even = np.full((130, 131, 3), (150, 60, 150), dtype=np.uint8)
    contrast = measure_contrast(block_density(even), 131)
    assert contrast is not None
    np.testing.assert_allclose(contrast, [0, -1 / 3], atol=1e-4)
