"""Cut an image into overlapping tiles and put their maps together again.

One axis of a tile plan, for an image that is longer than a tile:

    image        |=================================================|......|
    tile 0       |------------------------|                        :      :
    tile 1       :             |------------------------|          :      :
    tile 2       :             :          :    |--------------------------|
                 :             :          :    :        :          :      :
    owner        |0000000000000000000|1111111111111111111|22222222222222222|
                                ^         ^                        ^      ^
                     a seam in the middle of the overlap     image end   padded end

- The image is padded by reflection, at the bottom and the right, to multiples of `divisor`; the
  first tile starts at 0 and the last one ends flush with the padded image, so no tile sees more
  padding than the whole image would.
- A short axis is padded further, to a multiple of `short_step_px`, so that all images together make
  a handful of tile shapes.
- All origins are multiples of `divisor`: an encoder with that total stride samples the same grid
  in a tile as it does in the whole image. Away from a seam the maps are therefore equal.
- Each pixel of the image is owned by exactly one tile, and lies at least `halo_px` inside of it
  wherever the tile was cut. Where the receptive field is within the halo, tiled equals untiled.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: where it lies in the padded image, and which part of the output it owns.

    `top` and `left` are the tile's origin in pixels; the owned part is
    `[own_top, own_bottom) x [own_left, own_right)` in the same coordinates.
    """

    top: int
    left: int
    own_top: int
    own_bottom: int
    own_left: int
    own_right: int


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How an image of `height_px` x `width_px` is cut; every tile has the same size."""

    height_px: int
    width_px: int
    tile_height_px: int
    tile_width_px: int
    tiles: tuple[Tile, ...]

    def __len__(self) -> int:
        return len(self.tiles)


def plan_tiles(
    height_px: int,
    width_px: int,
    tile_px: int,
    halo_px: int,
    divisor: int,
    short_step_px: int | None = None,
) -> TilePlan:
    """Plan the tiles of an image; see the drawing at the top of this module.

    Args:
        height_px: Height of the image.
        width_px: Width of the image.
        tile_px: Side of a tile, a multiple of `divisor`. An image axis that is no longer, once
            padded to a multiple of `divisor`, is not cut.
        halo_px: Least distance of an owned pixel from a cut side of its tile.
        divisor: What the model requires heights and widths to be multiples of.
        short_step_px: What an axis that is not cut is padded to multiples of, up to `tile_px`; a
            multiple of `divisor`, which is the default.

    Returns:
        The plan, tiles in row-major order.

    Raises:
        ValueError: The image is empty, `divisor` does not divide `tile_px`, or not
            `short_step_px`, or the halos leave less than one `divisor` of a tile.
    """
    if height_px < 1 or width_px < 1:
        raise ValueError(f"an image of {height_px} x {width_px} pixels cannot be tiled")
    if divisor < 1 or tile_px < divisor or tile_px % divisor:
        raise ValueError(f"divisor {divisor} does not divide tile_px {tile_px}")
    step_px = divisor if short_step_px is None else short_step_px
    if step_px < divisor or step_px % divisor:
        raise ValueError(f"divisor {divisor} does not divide short_step_px {step_px}")
    if halo_px < 0 or tile_px - 2 * halo_px < divisor:
        raise ValueError(f"halo_px {halo_px} leaves nothing of tile_px {tile_px}")
    tile_height_px, rows = _plan_axis(height_px, tile_px, halo_px, divisor, step_px)
    tile_width_px, columns = _plan_axis(width_px, tile_px, halo_px, divisor, step_px)
    tiles = tuple(
        Tile(top, left, own_top, own_bottom, own_left, own_right)
        for top, own_top, own_bottom in rows
        for left, own_left, own_right in columns
    )
    return TilePlan(height_px, width_px, tile_height_px, tile_width_px, tiles)


def _plan_axis(
    length_px: int, tile_px: int, halo_px: int, divisor: int, step_px: int
) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the tile's side and, for each tile, its origin and the `[from, to)` that it owns."""
    padded_px = -(-length_px // divisor) * divisor
    if padded_px <= tile_px:
        return min(tile_px, -(-length_px // step_px) * step_px), [(0, 0, length_px)]
    # All in steps of the divisor. Spreading the tiles evenly makes the gaps differ by one step at
    # most, and never exceed `stride`, which is what keeps the overlap at two halos or more.
    stride = (tile_px - 2 * halo_px) // divisor
    travel = (padded_px - tile_px) // divisor
    last = -(-travel // stride)
    origins = [index * travel // last * divisor for index in range(last + 1)]
    seams = [(left + tile_px + right) // 2 for left, right in pairwise(origins)]
    # A plan for few pixels beyond a tile may have its last seam behind the image's end; the last
    # tile then owns nothing and is not worth running.
    bounds = [0, *(min(seam, length_px) for seam in seams), length_px]
    owned = zip(origins, pairwise(bounds), strict=True)
    return tile_px, [(origin, start, stop) for origin, (start, stop) in owned if start < stop]


def extract(
    pixels: NDArray[np.uint8], plan: TilePlan, start: int = 0, stop: int | None = None
) -> NDArray[np.uint8]:
    """Cut the tiles `start` to `stop` (excluded) out of an image.

    Args:
        pixels: Image, shape (H, W, channels), uint8.
        plan: The plan made for H and W.
        start: First tile.
        stop: Tile after the last; default all.

    Returns:
        Tiles, shape (N, tile height, tile width, channels), uint8, C-contiguous; what lies beyond
        the image is its reflection.

    Raises:
        ValueError: `pixels` has not the size that the plan was made for.
    """
    if pixels.shape[:2] != (plan.height_px, plan.width_px):
        raise ValueError(f"the plan is not for an image of shape {pixels.shape}")
    chosen = plan.tiles[start:stop]
    shape = (len(chosen), plan.tile_height_px, plan.tile_width_px, *pixels.shape[2:])
    tiles = np.empty(shape, dtype=np.uint8)
    for target, tile in zip(tiles, chosen, strict=True):
        bottom, right = tile.top + plan.tile_height_px, tile.left + plan.tile_width_px
        if bottom <= plan.height_px and right <= plan.width_px:
            target[...] = pixels[tile.top : bottom, tile.left : right]
        else:
            rows = _reflect(np.arange(tile.top, bottom), plan.height_px)
            columns = _reflect(np.arange(tile.left, right), plan.width_px)
            target[...] = pixels[np.ix_(rows, columns)]
    return tiles


def _reflect(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Map indices beyond `length` back inside, as `... c d | c b a b c d ...` does."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    index = index % period
    return np.where(index < length, index, period - index)


def paste(
    canvas: NDArray[np.uint8], maps: NDArray[np.uint8], plan: TilePlan, start: int = 0
) -> None:
    """Write what each tile owns into the image-sized canvas.

    Args:
        canvas: Written in place, shape (H, W, C), uint8.
        maps: Maps of the tiles `start`, `start + 1`, ..., shape (N, tile height, tile width, C).
        plan: The plan that the tiles were cut by.
        start: Index in the plan of the first of `maps`.
    """
    for tile_maps, tile in zip(maps, plan.tiles[start : start + len(maps)], strict=True):
        canvas[tile.own_top : tile.own_bottom, tile.own_left : tile.own_right] = tile_maps[
            tile.own_top - tile.top : tile.own_bottom - tile.top,
            tile.own_left - tile.left : tile.own_right - tile.left,
        ]


def stitch(maps: NDArray[np.uint8], plan: TilePlan) -> NDArray[np.uint8]:
    """Put the maps of all tiles together.

    Args:
        maps: Shape (N, tile height, tile width, C), uint8, all tiles of the plan in its order.
        plan: The plan that the tiles were cut by.

    Returns:
        Maps of the image, shape (H, W, C), uint8.

    Raises:
        ValueError: There is not one map for each tile of the plan.
    """
    if len(maps) != len(plan):
        raise ValueError(f"{len(maps)} maps for a plan of {len(plan)} tiles")
    canvas = np.empty((plan.height_px, plan.width_px, *maps.shape[3:]), dtype=np.uint8)
    paste(canvas, maps, plan)
    return canvas
