"""Learn from the training images what the service's quality flags compare with.

```
 training images ─┬─ as they are ────────────┐
 (patients that   ├─ blurred, sigma 2 px ────┤
  nothing is      ├─ hue turned ─────────────┼─► figures ─► Gaussians and thresholds
  measured on)    └─ at half the resolution ─┘
```

The figures are the service's own (`service.segmentation.quality_figures`). Whole images and, of
large ones, their quarters are measured, so that the flags suit both. A threshold lies between clean
and spoilt images, or beyond nearly all the clean ones where nothing was spoilt on purpose. Images
that the model is calibrated and measured on take no part.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.contract import TrainedRun
from export.spoil import Pixels, add_noise, blur, halve, turn_hue
from service.inference.contract import SeparationSpec
from service.inference.session import ModelSession
from service.segmentation.instances import separate
from service.segmentation.measurements import measure
from service.segmentation.quality_figures import QualityFigures, measure_quality
from service.segmentation.quality_reference import Comparison, Gaussian
from service.segmentation.tiling import extract, plan_tiles, stitch
from training.datasets import Sample, read_dataset

MOST_IMAGES: Final = 96
"""Of each data set, evenly over its patients or organs."""
LEAST_ROWS: Final = 24
"""A Gaussian of seven figures needs a few more measurements than that."""

BLUR_SIGMA_PX: Final = 2.0
BLUR_NOISE_LEVELS: Final = 2.0
HUE_TURNS_DEG: Final = (-90, -60, -30, -20, 20, 30, 60, 90, 180)
QUARTERED_PX: Final = 512
FALSE_ALARMS: Final = 0.03
"""Share of the training images on which each flag may fire."""
_TISSUE_MARGIN: Final = 0.5
_TISSUE_RANGE: Final = (0.02, 0.10)
_SIZE_MARGIN: Final = 1.2
_LEAST_MERGED: Final = 0.1

_Rows = list[NDArray[np.float64]]


@dataclass
class _Source:
    """What the images of one data set measured."""

    clean: list[QualityFigures] = field(default_factory=list)
    half: list[QualityFigures] = field(default_factory=list)
    blurred: list[QualityFigures] = field(default_factory=list)
    noisy: list[QualityFigures] = field(default_factory=list)
    turned: dict[int, list[QualityFigures]] = field(default_factory=dict)


def training_folders(run: TrainedRun, data_root: Path) -> list[Path]:
    """The folders that a run and its pretraining read, as far as they are there.

    Args:
        run: The run.
        data_root: Where relative paths of its configuration start.
    """
    folders = {
        (data_root / source.path).resolve(): None
        for stage in run.stages
        for source in stage.config.data
        if source.weight > 0
    }
    return [folder for folder in folders if folder.is_dir()]


def choose_training_samples(run: TrainedRun, roots: Iterable[Path]) -> dict[str, list[Sample]]:
    """Find some of the images that a run learnt from, by their names.

    Args:
        run: The run.
        roots: Labelled folders to look in, for example those of `training_folders`.

    Returns:
        Samples by folder name, at most `MOST_IMAGES` each, evenly over the groups and the same on
        every call. Folders with none are left out.

    Raises:
        training.datasets.DatasetError: A folder is not usable.
    """
    trained = run.trained_stems()
    chosen = {}
    for root in roots:
        samples = [sample for sample in read_dataset(root) if sample.stem in trained]
        if samples:
            chosen[root.resolve().name] = _evenly(samples)
    return chosen


def _evenly(samples: Sequence[Sample]) -> list[Sample]:
    """Take from each group in turn, in an order that does not depend on the file names."""
    groups: dict[str, list[Sample]] = {}
    for sample in random.Random(0).sample(samples, len(samples)):
        groups.setdefault(sample.group, []).append(sample)
    rounds = max(len(group) for group in groups.values())
    ordered = [group[i] for i in range(rounds) for group in groups.values() if i < len(group)]
    return ordered[:MOST_IMAGES]


def learn_quality_reference(
    session: ModelSession,
    separation: SeparationSpec,
    sources: dict[str, list[Sample]],
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> dict[str, float]:
    """Measure training images, and set every threshold.

    Args:
        session: The model.
        separation: Its calibrated thresholds.
        sources: Training images by data set.
        progress: Shows how far the work is.

    Returns:
        The contract's `quality_reference`, as `QualityReference.from_values` reads it. What too few
        images support is left out, and the service then says that it cannot assess it.
    """
    measured = []
    for samples in sources.values():
        source = _Source(turned={turn: [] for turn in HUE_TURNS_DEG})
        for sample in progress(samples):
            _measure_sample(sample.read()[0], session, separation, source)
        measured.append(source)
    clean = [figures for source in measured for figures in source.clean]
    if not clean:
        return {}
    values = {
        **_tissue_values(clean),
        **_blur_values(measured),
        **_stain_values(measured),
        **_magnification_values(measured),
        **_merged_values(clean),
    }
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _measure_sample(
    pixels: Pixels, session: ModelSession, separation: SeparationSpec, source: _Source
) -> None:
    maps = _run(session, pixels)

    def figures(some_pixels: Pixels, some_maps: Pixels) -> list[QualityFigures]:
        parts = zip(_parts(some_pixels, pixels), _parts(some_maps, pixels), strict=True)
        return [_figures(part, of_part, session, separation) for part, of_part in parts]

    source.clean += figures(pixels, maps)
    # Neither blur nor hue changes where the nuclei are: the network need not run again.
    blurred = blur(pixels, BLUR_SIGMA_PX)
    source.blurred += figures(blurred, maps)
    source.noisy += figures(add_noise(blurred, BLUR_NOISE_LEVELS), maps)
    for turn in source.turned:
        source.turned[turn] += figures(turn_hue(pixels, turn), maps)
    half = halve(pixels)
    source.half += figures(half, _run(session, half))


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


def _figures(
    pixels: Pixels, maps: Pixels, session: ModelSession, separation: SeparationSpec
) -> QualityFigures:
    labels = separate(
        maps,
        probability_threshold=separation.probability_threshold,
        seed_threshold=separation.seed_threshold,
        min_area_px=separation.min_area_um2 / session.contract.input.mpp**2,
        min_mean_probability=separation.min_mean_probability,
    )
    return measure_quality(
        pixels,
        maps,
        measure(labels, np.ascontiguousarray(maps[..., 0])),
        probability_threshold=separation.probability_threshold,
        seed_threshold=separation.seed_threshold,
    )


def _tissue_values(clean: Sequence[QualityFigures]) -> dict[str, float]:
    lowest = float(np.quantile([figures.tissue_fraction for figures in clean], 0.01))
    return {"tissue.least_fraction": float(np.clip(lowest * _TISSUE_MARGIN, *_TISSUE_RANGE))}


def _blur_values(sources: Sequence[_Source]) -> dict[str, float]:
    """Halfway between the least sharp clean images and the sharpest blurred ones."""
    plain = [
        (clean.sharpness, blurred.sharpness)
        for source in sources
        for clean, blurred in zip(source.clean, source.blurred, strict=True)
    ]
    noisy = [
        (clean.clear_sharpness, blurred.clear_sharpness)
        for source in sources
        for clean, blurred in zip(source.clean, source.noisy, strict=True)
    ]
    found = {"blur.least_sharpness": plain, "blur.least_clear_sharpness": noisy}
    middles = {name: _middle(pairs) for name, pairs in found.items()}
    return {name: middle for name, middle in middles.items() if middle is not None}


def _middle(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    usable = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(usable) < LEAST_ROWS:
        return None
    clean, blurred = np.array(usable).T
    middle = np.quantile(clean, FALSE_ALARMS / 3) + np.quantile(blurred, 1 - FALSE_ALARMS / 3)
    return float(middle) / 2


def _stain_values(sources: Sequence[_Source]) -> dict[str, float]:
    """One Gaussian a data set and turn: one over all turns would be too wide to see small ones."""
    values: dict[str, float] = {}
    for flag, rows_of in (("stain", _stains), ("colour", _colours)):
        usual = [rows_of(source.clean) for source in sources]
        shifted = [rows_of(rows) for source in sources for rows in source.turned.values()]
        values |= _compare(flag, "shifted", usual, shifted)
    return values


def _stains(images: Sequence[QualityFigures]) -> _Rows:
    return [figures.stain for figures in images if figures.stain is not None]


def _colours(images: Sequence[QualityFigures]) -> _Rows:
    return [figures.colour for figures in images if figures.colour is not None]


def _magnification_values(sources: Sequence[_Source]) -> dict[str, float]:
    usual = [_scales(source.clean) for source in sources]
    values = _compare("magnification", "coarse", usual, [_scales(s.half) for s in sources])
    areas = [
        figures.median_core_px
        for source in sources
        for figures in source.clean
        if figures.median_core_px is not None
    ]
    if not values:
        return {}
    values["magnification.median_core_px"] = float(np.median(areas))
    values["magnification.most_median_core_px"] = float(np.quantile(areas, 0.995)) * _SIZE_MARGIN
    return values


def _scales(images: Sequence[QualityFigures]) -> _Rows:
    return [figures.scale for figures in images if figures.scale is not None]


def _compare(
    flag: str, changed_name: str, usual: Sequence[_Rows], changed: Sequence[_Rows]
) -> dict[str, float]:
    """Fit both sides, and put the threshold where few clean images pass it."""
    sides = []
    for side in (usual, changed):
        fitted = [Gaussian.fit(np.array(rows)) for rows in side if len(rows) >= LEAST_ROWS]
        sides.append(tuple(fitted))
    if not all(sides):
        return {}
    comparison = Comparison(sides[0], sides[1], most_log_odds=0.0)
    # By data set, or the largest one would decide alone what is rare.
    highest = [
        np.quantile([comparison.log_odds(row) for row in rows], 1 - FALSE_ALARMS)
        for rows in usual
        if len(rows) >= LEAST_ROWS
    ]
    values = {f"{flag}.most_log_odds": max(0.0, float(np.median(highest)))}
    for name, parts in (("usual", sides[0]), (changed_name, sides[1])):
        for number, part in enumerate(parts):
            values |= part.values(f"{flag}.{name}.{number}")
    return values


def _merged_values(clean: Sequence[QualityFigures]) -> dict[str, float]:
    shares = [figures.merged_share for figures in clean if figures.merged_share is not None]
    if len(shares) < LEAST_ROWS:
        return {}
    # Nothing was spoilt to show where it must fire: only what hardly any clean image reaches.
    most = float(np.quantile(shares, 1 - FALSE_ALARMS / 3))
    return {"merged.most_share": max(_LEAST_MERGED, most)}
