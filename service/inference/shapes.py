"""The few shapes that a model is ever run on.

A GPU pays for every new shape: cuDNN searches, TensorRT builds, the arena grows and never shrinks.
So short image axes are padded by reflection to one of four sides, batches to powers of two, and
each combination is run once before the service is ready. The shape depends on the image alone,
never on what else is in the queue, so the answer does not either; and it is the same on every
provider, so a GPU sees the pixels that the CPU saw when the model was judged.
"""

_SIDES = 4


def side_step_px(tile_px: int, divisor: int) -> int:
    """Return the step between the sides of tiles: a quarter of a tile, in whole divisors.

    Args:
        tile_px: Side of a whole tile, a multiple of `divisor`.
        divisor: What the model requires sides to be multiples of.
    """
    return -(-tile_px // (_SIDES * divisor)) * divisor


def tile_sides_px(tile_px: int, divisor: int) -> tuple[int, ...]:
    """Return all sides that a tile may have, ascending; see `side_step_px`."""
    step = side_step_px(tile_px, divisor)
    return (*range(step, tile_px, step), tile_px)


def batch_sizes(max_batch_tiles: int) -> tuple[int, ...]:
    """Return the sizes of batches that are run: powers of two, and the greatest allowed."""
    powers = (1 << exponent for exponent in range(max_batch_tiles.bit_length()))
    return tuple(sorted({*powers, max_batch_tiles}))


def batch_size_for(tiles: int, max_batch_tiles: int) -> int:
    """Return the least batch size that holds `tiles`, which is at most `max_batch_tiles`."""
    return next(size for size in batch_sizes(max_batch_tiles) if size >= tiles)
