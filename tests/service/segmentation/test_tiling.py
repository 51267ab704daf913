"""Tile plans: every pixel owned once, halos kept, and nothing lost on the way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.segmentation.tiling import TilePlan, extract, paste, plan_tiles, stitch


@st.composite
def plans(draw: st.DrawFn, longest_px: int = 200) -> tuple[TilePlan, int, int]:
    """A plan, its halo and its divisor; sizes around and far from whole tiles."""
    divisor = draw(st.sampled_from([1, 2, 8, 16]))
    tile_px = divisor * draw(st.integers(1, 6))
    halo_px = draw(st.integers(0, (tile_px - divisor) // 2))
    height, width = draw(st.integers(1, longest_px)), draw(st.integers(1, longest_px))
    return plan_tiles(height, width, tile_px, halo_px, divisor), halo_px, divisor


def numbered_image(height: int, width: int) -> NDArray[np.uint8]:
    """An image in which no two near pixels are equal."""
    row, column = np.mgrid[0:height, 0:width]
    return np.stack([row % 251, column % 251, (row * 7 + column * 13) % 256], axis=-1).astype(
        np.uint8
    )


@given(plans())
@settings(max_examples=100, deadline=None)
def test_stitching_what_was_extracted_gives_the_image(case: tuple[TilePlan, int, int]) -> None:
    plan, _, _ = case
    image = numbered_image(plan.height_px, plan.width_px)
    assert np.array_equal(stitch(extract(image, plan), plan), image)


@given(plans())
@settings(max_examples=100, deadline=None)
def test_plan_keeps_its_promises(case: tuple[TilePlan, int, int]) -> None:
    plan, halo_px, divisor = case
    owners = np.zeros((plan.height_px, plan.width_px), dtype=int)
    assert plan.tile_height_px % divisor == 0
    assert plan.tile_width_px % divisor == 0
    padded_height = -(-plan.height_px // divisor) * divisor
    padded_width = -(-plan.width_px // divisor) * divisor
    for tile in plan.tiles:
        owners[tile.own_top : tile.own_bottom, tile.own_left : tile.own_right] += 1
        for origin, side, padded, length, start, stop in (
            (
                tile.top,
                plan.tile_height_px,
                padded_height,
                plan.height_px,
                tile.own_top,
                tile.own_bottom,
            ),
            (
                tile.left,
                plan.tile_width_px,
                padded_width,
                plan.width_px,
                tile.own_left,
                tile.own_right,
            ),
        ):
            assert origin % divisor == 0
            assert 0 <= origin <= origin + side <= padded
            # A cut side lies a halo away; the image's own border may be owned.
            assert start - origin >= halo_px or start == origin == 0
            assert origin + side - stop >= halo_px or stop == length
    assert np.all(owners == 1)


def box_sum(image: NDArray[np.uint8], radius_px: int) -> NDArray[np.uint8]:
    """A stand-in for a network: each output depends on the pixels within `radius_px`."""
    total = np.zeros(image.shape, dtype=np.int64)
    padded = np.pad(
        image.astype(np.int64), ((radius_px, radius_px), (radius_px, radius_px), (0, 0))
    )
    for dy in range(2 * radius_px + 1):
        for dx in range(2 * radius_px + 1):
            total += padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
    return (total % 256).astype(np.uint8)


@given(plans(longest_px=90), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_tiled_equals_untiled_within_the_halo(
    case: tuple[TilePlan, int, int], radius_px: int
) -> None:
    plan, halo_px, divisor = case
    radius_px = min(radius_px, halo_px)
    image = numbered_image(plan.height_px, plan.width_px)
    whole = plan_tiles(plan.height_px, plan.width_px, 96, 0, divisor)
    untiled = stitch(np.stack([box_sum(t, radius_px) for t in extract(image, whole)]), whole)
    tiled = stitch(np.stack([box_sum(t, radius_px) for t in extract(image, plan)]), plan)
    assert len(whole) == 1
    assert np.array_equal(tiled, untiled)


def test_small_image_is_one_tile_padded_by_reflection() -> None:
    plan = plan_tiles(3, 5, 64, 16, 8)
    image = numbered_image(3, 5)
    tiles = extract(image, plan)
    assert tiles.shape == (1, 8, 8, 3)
    assert np.array_equal(tiles[0, :, :5, 0], np.pad(image[..., 0], ((0, 5), (0, 0)), "reflect"))


def test_image_of_one_pixel_is_repeated() -> None:
    tiles = extract(np.full((1, 1, 3), 7, dtype=np.uint8), plan_tiles(1, 1, 64, 16, 32))
    assert tiles.shape == (1, 32, 32, 3)
    assert np.all(tiles == 7)


def test_only_the_long_axis_is_cut() -> None:
    plan = plan_tiles(100, 1000, 256, 32, 32)
    assert (plan.tile_height_px, plan.tile_width_px) == (128, 256)
    assert {tile.top for tile in plan.tiles} == {0}
    assert [tile.left for tile in plan.tiles] == [0, 192, 384, 576, 768]


def test_pasting_batches_equals_stitching() -> None:
    plan = plan_tiles(150, 130, 64, 8, 16)
    image = numbered_image(150, 130)
    canvas = np.zeros_like(image)
    for start in range(0, len(plan), 4):
        paste(canvas, extract(image, plan, start, start + 4), plan, start)
    assert np.array_equal(canvas, image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 64, 8, 32), "0 x 10 pixels"),
        ((10, 10, 60, 8, 32), "divisor 32 does not divide"),
        ((10, 10, 64, 32, 32), "halo_px 32 leaves nothing"),
        ((10, 10, 64, -1, 32), "halo_px -1"),
    ],
)
def test_impossible_plans_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_tiles(*arguments)


def test_plan_of_another_image_is_refused() -> None:
    plan = plan_tiles(40, 40, 64, 8, 32)
    with pytest.raises(ValueError, match="not for an image of shape"):
        extract(np.zeros((41, 40, 3), dtype=np.uint8), plan)
    with pytest.raises(ValueError, match="0 maps for a plan of 1"):
        stitch(np.zeros((0, 64, 64, 1), dtype=np.uint8), plan)
