import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.shapes import batch_size_for, batch_sizes, side_step_px, tile_sides_px
from service.segmentation.tiling import plan_tiles


@pytest.mark.parametrize(
    ("tile_px", "divisor", "sides"),
    [
        (512, 32, (128, 256, 384, 512)),
        (256, 32, (64, 128, 192, 256)),
        (96, 32, (32, 64, 96)),
        (160, 32, (64, 128, 160)),
        (32, 32, (32,)),
    ],
)
def test_sides_are_few_and_end_with_the_tile(
    tile_px: int, divisor: int, sides: tuple[int, ...]
) -> None:
    assert tile_sides_px(tile_px, divisor) == sides


def test_batches_are_powers_of_two_up_to_the_bound() -> None:
    assert batch_sizes(1) == (1,)
    assert batch_sizes(8) == (1, 2, 4, 8)
    assert batch_sizes(6) == (1, 2, 4, 6)
    assert [batch_size_for(tiles, 6) for tiles in range(1, 7)] == [1, 2, 4, 4, 6, 6]


@settings(deadline=None)
@given(
    st.integers(1, 1500),
    st.integers(1, 1500),
    st.integers(1, 16),
    st.sampled_from([16, 32]),
)
def test_every_plan_keeps_to_the_shapes_that_are_warm(
    height_px: int, width_px: int, steps: int, divisor: int
) -> None:
    tile_px = steps * divisor
    halo_px = divisor // 2 if steps > 1 else 0
    plan = plan_tiles(
        height_px, width_px, tile_px, halo_px, divisor, side_step_px(tile_px, divisor)
    )
    sides = tile_sides_px(tile_px, divisor)
    assert plan.tile_height_px in sides
    assert plan.tile_width_px in sides
    assert len(sides) <= 4
