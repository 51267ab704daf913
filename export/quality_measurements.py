"""Measure training images as they are and spoilt on purpose, with the service's own code.

```
 image ─┬─ as it is ──────────────┬─► the network ─► maps ─┬─► figures of the image
        ├─ at half the resolution ┤                        │   and, of large ones, of its quarters
        ├─ its middle at twice it ┘                        │
        ├─ red and blue swapped ──┘                        │
        └─ stained otherwise, colours changed, blurred ────┘ with the maps of the image as it is
```

Quarters are measured too, so that the flags suit both.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.spoil import (
    Pixels,
    add_noise,
    blur,
    double_middle,
    enlarge_again,
    grey,
    halve,
    invert,
    swap_channels,
    turn_hue,
)
from service.inference.contract import SeparationSpec
from service.inference.session import ModelSession
from service.segmentation.instances import separate
from service.segmentation.measurements import Nucleus, measure
from service.segmentation.quality_figures import QualityFigures, measure_quality
from service.segmentation.tiling import extract, plan_tiles, stitch
from training.datasets import Sample
from training.stain import jitter_stains

BLUR_SIGMA_PX: Final = 2.0
BLUR_NOISE_LEVELS: Final = 2.0
HUE_TURNS_DEG: Final = (-90, -60, -45, -30, -20, 20, 30, 45, 60, 90, 180)
BGR: Final = (2, 1, 0)
"""Red and blue swapped, as software does by mistake. It hides nuclei, so it has its own maps."""
RECOLOURED: Final[dict[str, Callable[[Pixels], Pixels]]] = {
    "BRG": lambda pixels: swap_channels(pixels, (2, 0, 1)),
    "GBR": lambda pixels: swap_channels(pixels, (1, 2, 0)),
    "RBG": lambda pixels: swap_channels(pixels, (0, 2, 1)),
    "GRB": lambda pixels: swap_channels(pixels, (1, 0, 2)),
    "grey": grey,
    "negative": invert,
}
RESTAINED: Final = 2
"""Copies of each image with other amounts of its dyes, as other laboratories' would have."""
STAIN_STRENGTH: Final = 0.15
QUARTERED_PX: Final = 512


@dataclass
class Source:
    """What the images of one data set measured.

    Attributes:
        clean: As they are.
        restained: With other amounts of their dyes.
        half: At half the resolution.
        double: At twice the resolution.
        blurred: Blurred.
        noisy: Blurred, then given a camera's noise.
        enlarged: At half the resolution, then enlarged again.
        turned: With their hue turned, by the angle in degrees.
        recoloured: With their channels swapped, grey and as negatives, by the name of the change.
    """

    clean: list[QualityFigures] = field(default_factory=list)
    restained: list[QualityFigures] = field(default_factory=list)
    half: list[QualityFigures] = field(default_factory=list)
    double: list[QualityFigures] = field(default_factory=list)
    blurred: list[QualityFigures] = field(default_factory=list)
    noisy: list[QualityFigures] = field(default_factory=list)
    enlarged: list[QualityFigures] = field(default_factory=list)
    turned: dict[int, list[QualityFigures]] = field(
        default_factory=lambda: {turn: [] for turn in HUE_TURNS_DEG}
    )
    recoloured: dict[str, list[QualityFigures]] = field(
        default_factory=lambda: {name: [] for name in ("BGR", *RECOLOURED)}
    )

    @property
    def shifted(self) -> list[list[QualityFigures]]:
        """Every change of the colours, each of its own kind."""
        return [*self.turned.values(), *self.recoloured.values()]


def measure_source(
    samples: Sequence[Sample],
    session: ModelSession,
    separation: SeparationSpec,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> Source:
    """Measure the images of one data set.

    Args:
        samples: The images.
        session: The model.
        separation: Its calibrated thresholds.
        progress: Shows how far the work is.
    """
    source = Source()
    random = np.random.default_rng(0)
    for sample in progress(samples):
        _measure_sample(sample.read()[0], session, separation, source, random)
    return source


def _measure_sample(
    pixels: Pixels,
    session: ModelSession,
    separation: SeparationSpec,
    source: Source,
    random: np.random.Generator,
) -> None:
    maps = _run(session, pixels)

    def figures(some_pixels: Pixels, some_maps: Pixels = maps) -> list[QualityFigures]:
        parts = zip(_parts(some_pixels, pixels), _parts(some_maps, pixels), strict=True)
        return [_figures(part, of_part, [], separation) for part, of_part in parts]

    for part, of_part in zip(_parts(pixels, pixels), _parts(maps, pixels), strict=True):
        nuclei = _nuclei(of_part, separation, session.contract.input.mpp)
        source.clean.append(_figures(part, of_part, nuclei, separation))
    half, double = halve(pixels), double_middle(pixels)
    source.half += figures(half, _run(session, half))
    source.double.append(_figures(double, _run(session, double), [], separation))
    swapped = swap_channels(pixels, BGR)
    source.recoloured["BGR"] += figures(swapped, _run(session, swapped))
    # Neither blur nor colour changes where the nuclei are: the network need not run again.
    blurred = blur(pixels, BLUR_SIGMA_PX)
    source.blurred += figures(blurred)
    source.noisy += figures(add_noise(blurred, BLUR_NOISE_LEVELS))
    source.enlarged += figures(enlarge_again(pixels))
    for turn in source.turned:
        source.turned[turn] += figures(turn_hue(pixels, turn))
    for name, recolour in RECOLOURED.items():
        source.recoloured[name] += figures(recolour(pixels))
    for _ in range(RESTAINED):
        source.restained += figures(jitter_stains(pixels, random, STAIN_STRENGTH))


def _parts(array: Pixels, original: Pixels) -> Iterator[Pixels]:
    """The whole, and its quarters where the original is large."""
    yield array
    if min(original.shape[:2]) >= QUARTERED_PX:
        middle_y, middle_x = array.shape[0] // 2, array.shape[1] // 2
        for rows in (slice(0, middle_y), slice(middle_y, 2 * middle_y)):
            for columns in (slice(0, middle_x), slice(middle_x, 2 * middle_x)):
                yield np.ascontiguousarray(array[rows, columns])


def _run(session: ModelSession, pixels: Pixels) -> Pixels:
    sizes = session.contract.input
    height_px, width_px = pixels.shape[:2]
    plan = plan_tiles(height_px, width_px, sizes.tile_px, sizes.halo_px, sizes.divisor)
    tiles = [session.run(extract(pixels, plan, i, i + 1)) for i in range(len(plan))]
    return stitch(np.concatenate(tiles), plan)


def _nuclei(maps: Pixels, separation: SeparationSpec, mpp: float) -> list[Nucleus]:
    labels: NDArray[np.int32] = separate(
        maps,
        probability_threshold=separation.probability_threshold,
        seed_threshold=separation.seed_threshold,
        min_area_px=separation.min_area_um2 / mpp**2,
        min_mean_probability=separation.min_mean_probability,
    )
    return measure(labels, np.ascontiguousarray(maps[..., 0]))


def _figures(
    pixels: Pixels, maps: Pixels, nuclei: Sequence[Nucleus], separation: SeparationSpec
) -> QualityFigures:
    return measure_quality(
        pixels,
        maps,
        nuclei,
        probability_threshold=separation.probability_threshold,
        seed_threshold=separation.seed_threshold,
    )
