from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from training.augmentation import Augmentation, random_crop
from training.stain import hed_to_rgb, jitter_stains, rgb_to_hed
from training.targets import make_targets

OFF = Augmentation(0, rotation=False, elastic_px=0, stain=0, brightness=0, blur_px=0)


def crop(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int32],
    seed: int,
    augmentation: Augmentation,
    nucleus_share: float = 0.7,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return random_crop(
        pixels,
        make_targets(labels, 2),
        128,
        np.random.default_rng(seed),
        augmentation,
        nucleus_share=nucleus_share,
    )


@pytest.mark.parametrize("seed", range(6))
def test_image_and_targets_move_together(he_labels: NDArray[np.int32], seed: int) -> None:
    # The image is the mask itself, so any disagreement after the warp is a misalignment.
    mask = np.where(he_labels > 0, 255, 0).astype(np.uint8)
    geometric = replace(OFF, scale=0.25, rotation=True, elastic_px=3.0)
    image, targets = crop(np.repeat(mask[..., None], 3, axis=2), he_labels, seed, geometric)
    agree = (image[..., 0] > 127) == (targets[..., 0] > 127)
    # One in a thousand pixels may round to the other side of one half.
    assert agree.mean() > 0.999
    assert (targets[..., 1][targets[..., 0] == 0] < 140).all()


def test_without_augmentation_a_crop_is_a_window_of_the_image(
    he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    image, _ = crop(he_pixels, he_labels, 5, OFF)
    turned = [np.rot90(m, k) for m in (image, image[:, ::-1]) for k in range(4)]
    corners = he_pixels.reshape(-1, 3)
    found = False
    for candidate in turned:
        starts = np.flatnonzero((corners == candidate[0, 0]).all(axis=1))
        for start in starts:
            y, x = divmod(int(start), he_pixels.shape[1])
            window = he_pixels[y : y + 128, x : x + 128]
            found |= window.shape == candidate.shape and bool((window == candidate).all())
    assert found


def test_a_crop_is_a_function_of_its_seed(
    he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    first, again = (crop(he_pixels, he_labels, 1, Augmentation()) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (crop(he_pixels, he_labels, 2, Augmentation())[0] != first[0]).any()


def test_crops_centred_on_nuclei_hold_more_of_them(
    he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    sparse = np.where(he_labels <= 5, he_labels, 0)

    def share(nucleus_share: float) -> float:
        crops = (crop(he_pixels, sparse, s, OFF, nucleus_share)[1][..., 0] for s in range(40))
        return float(np.mean([target.mean() for target in crops]))

    assert share(1.0) > 2 * share(0.0)


def test_stains_survive_the_round_trip(he_pixels: NDArray[np.uint8]) -> None:
    back = hed_to_rgb(rgb_to_hed(he_pixels))
    assert np.abs(back.astype(int) - he_pixels).max() <= 1


def test_stain_jitter_changes_colour_but_not_structure(he_pixels: NDArray[np.uint8]) -> None:
    jittered = jitter_stains(he_pixels, np.random.default_rng(1), 0.25)
    assert np.abs(jittered.astype(int) - he_pixels).mean() > 2
    grey, grey_jittered = he_pixels.mean(axis=2).ravel(), jittered.mean(axis=2).ravel()
    assert np.corrcoef(grey, grey_jittered)[0, 1] > 0.97
    np.testing.assert_array_equal(jitter_stains(he_pixels, np.random.default_rng(0), 0), he_pixels)


def test_haematoxylin_is_where_the_nuclei_are(
    he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    haematoxylin = rgb_to_hed(he_pixels)[..., 0]
    assert haematoxylin[he_labels > 0].mean() > 1.3 * haematoxylin[he_labels == 0].mean()
