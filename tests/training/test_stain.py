"""Stain normalisation on real tiles, and the guards that leave an image as it is."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.augmentation import Augmentation, random_crop
from training.crops import CropDataset, load_images
from training.datasets import read_dataset
from training.stain import (
    STAINS,
    MacenkoStain,
    Method,
    ReinhardStain,
    estimate_stain,
    hed_to_rgb,
    normalise_stain,
)
from training.targets import make_targets

METHODS: tuple[Method, ...] = ("macenko", "reinhard")


@pytest.fixture(scope="module")
def tiles(test_data: Path) -> dict[str, NDArray[np.uint8]]:
    return {sample.stem: sample.read()[0] for sample in read_dataset(test_data)}


def test_stains_of_real_tiles_are_haematoxylin_and_eosin(
    tiles: dict[str, NDArray[np.uint8]],
) -> None:
    for pixels in tiles.values():
        stain = estimate_stain(pixels, "macenko")
        assert isinstance(stain, MacenkoStain)
        np.testing.assert_allclose(np.linalg.norm(stain.vectors, axis=1), 1)
        assert stain.angle_degrees > 10
        # Haematoxylin takes more red away, eosin more green.
        assert stain.vectors[0, 0] > stain.vectors[1, 0] + 0.1
        assert stain.vectors[1, 1] > stain.vectors[1, 0]


@pytest.mark.parametrize("method", METHODS)
def test_a_tile_takes_the_stain_of_another_one(
    tiles: dict[str, NDArray[np.uint8]], method: Method
) -> None:
    pixels = tiles["tnbc_p07_1"]
    source = estimate_stain(pixels, method)
    target = estimate_stain(tiles["nucls_test_1"], method)
    assert source is not None
    assert target is not None
    moved = normalise_stain(pixels, source, target)
    reached = estimate_stain(moved, method)
    if isinstance(target, MacenkoStain) and isinstance(source, MacenkoStain):
        assert isinstance(reached, MacenkoStain)
        before = np.degrees(np.arccos((source.vectors * target.vectors).sum(axis=1)))
        after = np.degrees(np.arccos((reached.vectors * target.vectors).sum(axis=1)))
        assert (after < before / 4).all()
    else:
        assert isinstance(reached, ReinhardStain)
        assert isinstance(target, ReinhardStain)
        assert isinstance(source, ReinhardStain)
        before = np.abs(source.mean - target.mean)
        assert np.abs(reached.mean - target.mean).max() < before.max() / 2
    # Nothing moves: nuclei stay the dark parts that they were.
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).ravel() for image in (pixels, moved)]
    assert np.corrcoef(*grey)[0, 1] > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_its_own_stain_changes_nothing_and_glass_stays_white(
    tiles: dict[str, NDArray[np.uint8]], method: Method
) -> None:
    pixels = tiles["tnbc_p07_1"].copy()
    pixels[:100] = (238, 240, 239)
    stain = estimate_stain(pixels, method)
    again = normalise_stain(pixels, stain, stain)
    assert np.abs(again.astype(int) - pixels).max() <= 2
    moved = normalise_stain(pixels, stain, estimate_stain(tiles["nucls_test_2"], method))
    np.testing.assert_array_equal(moved[:100], pixels[:100])
    assert np.abs(moved[100:].astype(int) - pixels[100:]).mean() > 3


def _odd_images() -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    shape = (128, 128)
    amount = random.uniform(0.1, 1, shape)
    nothing = np.zeros(shape)
    one_stain = hed_to_rgb(np.stack([amount, nothing, nothing], axis=-1).astype(np.float32))
    mostly_glass = np.full((*shape, 3), 240, np.uint8)
    mostly_glass[:5, :100] = one_stain[:5, :100]
    return {
        "glass": np.full((*shape, 3), 245, np.uint8),
        "noise on glass": np.clip(random.normal(235, 6, (*shape, 3)), 0, 255).astype(np.uint8),
        "little tissue": mostly_glass,
        "black": np.zeros((*shape, 3), np.uint8),
        "grey": np.repeat(random.integers(60, 200, (*shape, 1)), 3, axis=2).astype(np.uint8),
        "green": np.clip(random.normal((90, 200, 90), 10, (*shape, 3)), 0, 255).astype(np.uint8),
        "noise": random.integers(0, 256, (*shape, 3)).astype(np.uint8),
        "one stain": one_stain,
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", list(_odd_images()))
def test_what_is_no_haematoxylin_and_eosin_stays_as_it_is(
    tiles: dict[str, NDArray[np.uint8]], name: str, method: Method
) -> None:
    pixels = _odd_images()[name]
    stain = estimate_stain(pixels, method)
    if (name, method) == ("one stain", "reinhard"):
        # A colour that has a mean and a spread: all that Reinhard's method asks for.
        assert stain is not None
        return
    assert stain is None
    good = estimate_stain(tiles["tnbc_p08_2"], method)
    assert normalise_stain(pixels, stain, good) is pixels
    assert normalise_stain(tiles["tnbc_p08_2"], good, stain) is tiles["tnbc_p08_2"]


def test_stains_that_are_nearly_one_are_not_drawn_apart(
    tiles: dict[str, NDArray[np.uint8]],
) -> None:
    pixels = tiles["tnbc_p08_2"]
    wide = MacenkoStain(STAINS[:2] / np.linalg.norm(STAINS[:2], axis=1)[:, None], np.ones(2))
    between = wide.vectors[0] * 0.75 + wide.vectors[1] * 0.25
    narrow = MacenkoStain(
        np.stack([wide.vectors[0], between / np.linalg.norm(between)]), np.ones(2)
    )
    assert normalise_stain(pixels, narrow, wide) is pixels
    assert not np.array_equal(normalise_stain(pixels, wide, narrow), pixels)


def test_methods_cannot_be_mixed(tiles: dict[str, NDArray[np.uint8]]) -> None:
    pixels = tiles["tnbc_p08_2"]
    with pytest.raises(TypeError, match="two methods"):
        normalise_stain(
            pixels, estimate_stain(pixels, "macenko"), estimate_stain(pixels, "reinhard")
        )


def test_crops_take_stains_of_other_training_images_and_targets_stay(
    test_data: Path, he_pixels: NDArray[np.uint8], he_labels: NDArray[np.int32]
) -> None:
    plain = Augmentation(0, rotation=False, elastic_px=0, stain=0, brightness=0, blur_px=0)
    (neighbour,) = (sample for sample in read_dataset(test_data) if sample.stem == "tnbc_p07_1")
    other = estimate_stain(neighbour.read()[0], "macenko")
    own = estimate_stain(he_pixels, "macenko")
    targets = make_targets(he_labels, 2)
    crops = [
        random_crop(
            he_pixels, targets, 128, np.random.default_rng(4), plain, nucleus_share=1, stains=stains
        )
        for stains in ((None, None), (own, other))
    ]
    np.testing.assert_array_equal(crops[0][1], crops[1][1])
    np.testing.assert_array_equal(normalise_stain(crops[0][0], own, other), crops[1][0])
    assert not np.array_equal(crops[0][0], crops[1][0])

    def batch(augmentation: Augmentation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        images = load_images(read_dataset(test_data), 2)
        crops = CropDataset(
            [(images, 1.0)],
            crop_px=64,
            batch_size=4,
            steps=1,
            augmentation=augmentation,
            nucleus_share=0.5,
            seed=1,
        )
        return crops[0]

    turned_on = replace(plain, stain_normalisation="macenko", stain_normalisation_share=1.0)
    np.testing.assert_array_equal(batch(turned_on)[0], batch(turned_on)[0])
    # A share of 0 is the same as none, crop by crop.
    never = replace(turned_on, stain_normalisation_share=0.0)
    assert not np.array_equal(batch(turned_on)[0], batch(plain)[0])
    np.testing.assert_array_equal(batch(never)[0], batch(plain)[0])
