"""Learn from the training images what the service's quality flags compare with.

```
 training images ─► measure them, spoilt and not (`quality_measurements`) ─► figures ─┐
 (patients that nothing is measured on)                                               ▼
                                                           Gaussians and thresholds
```

A threshold lies between clean and spoilt images, or beyond nearly all the clean ones where nothing
was spoilt on purpose. Images that the model is calibrated and measured on take no part.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.contract import TrainedRun
from export.quality_measurements import Source, measure_source
from service.inference.contract import SeparationSpec
from service.inference.session import ModelSession
from service.segmentation.quality_figures import QualityFigures
from service.segmentation.quality_reference import Comparison, Gaussian
from training.datasets import Sample, read_dataset

MOST_IMAGES: Final = 96
"""Of each data set, evenly over its patients or organs."""
LEAST_ROWS: Final = 24
"""A Gaussian of seven figures needs a few more measurements than that."""

FALSE_ALARMS: Final = 0.03
"""Share of the training images on which each flag may fire."""
SIZE_FALSE_ALARMS: Final = 0.1
"""The same for nuclei that look small: those of a field of few are as small as a lymphocyte's."""
HOME_WEIGHT: Final = 0.8
"""Weight of the data set that the model is for among those that it has learnt colours from."""
LABORATORIES: Final = 2.0
"""How much further apart other laboratories' counterstains lie than those of the data sets, which
are few: in standard deviations."""
_COUNTERSTAIN: Final = {"hues": slice(6, 8), "tissue_hues": slice(4, 8)}
"""Where the figures tell of more than the haematoxylin, which is the same everywhere."""
_TISSUE_MARGIN: Final = 0.5
_TISSUE_RANGE: Final = (0.02, 0.10)
_LEAST_MERGED: Final = 0.1

_Rows = list[NDArray[np.float64]]


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
    """Choose some of the images that a run learnt from; see `find_trained_samples`.

    Returns:
        Samples by folder name, at most `MOST_IMAGES` each, evenly over the groups and the same on
        every call.
    """
    return {name: _evenly(samples) for name, samples in find_trained_samples(run, roots).items()}


def find_trained_samples(run: TrainedRun, roots: Iterable[Path]) -> dict[str, list[Sample]]:
    """Find the images that a run learnt from, by their names.

    Args:
        run: The run.
        roots: Labelled folders to look in, for example those of `training_folders`.

    Returns:
        Samples by folder name. Folders with none are left out.

    Raises:
        training.datasets.DatasetError: A folder is not usable.
    """
    trained = run.trained_stems()
    found = {}
    for root in roots:
        samples = [sample for sample in read_dataset(root) if sample.stem in trained]
        if samples:
            found[root.resolve().name] = samples
    return found


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
    *,
    home: str | None = None,
) -> dict[str, float]:
    """Measure training images, and set every threshold.

    Args:
        session: The model.
        separation: Its calibrated thresholds.
        sources: Training images by data set.
        progress: Shows how far the work is.
        home: The data set that the model is for, the one of the patients it is validated on.

    Returns:
        The contract's `quality_reference`, as `QualityReference.from_values` reads it. What too few
        images support is left out, and the service then says that it cannot assess it.
    """
    measured = {
        name: measure_source(samples, session, separation, progress)
        for name, samples in sources.items()
    }
    clean = [figures for source in measured.values() for figures in source.clean]
    if not clean:
        return {}
    values = {
        **_tissue_values(clean),
        **_blur_values(list(measured.values())),
        **_finest_values(list(measured.values()), session.contract.input.mpp),
        **_stain_values(measured, home),
        **_scale_values(measured, home),
        **_merged_values(clean),
    }
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _tissue_values(clean: Sequence[QualityFigures]) -> dict[str, float]:
    lowest = float(np.quantile([figures.tissue_fraction for figures in clean], 0.01))
    return {"tissue.least_fraction": float(np.clip(lowest * _TISSUE_MARGIN, *_TISSUE_RANGE))}


def _blur_values(sources: Sequence[Source]) -> dict[str, float]:
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


def _finest_values(sources: Sequence[Source], mpp: float) -> dict[str, float]:
    """What nearly all enlarged images stay below: soft images of other scanners lie above."""
    pairs = [
        (clean.finest, enlarged.finest)
        for source in sources
        for clean, enlarged in zip(source.clean, source.enlarged, strict=True)
    ]
    ends = _ends(pairs)
    if ends is None or ends[0] <= ends[1]:
        return {}
    return {"blur.least_finest": ends[1], "blur.finest_mpp": mpp}


def _middle(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    ends = _ends(pairs)
    return None if ends is None else sum(ends) / 2


def _ends(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[float, float] | None:
    """Return the least sharp clean images and the sharpest spoilt ones."""
    usable = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(usable) < LEAST_ROWS:
        return None
    clean, spoilt = np.array(usable).T
    least, most = np.quantile(clean, FALSE_ALARMS / 3), np.quantile(spoilt, 1 - FALSE_ALARMS / 3)
    return float(least), float(most)


def _stain_values(sources: Mapping[str, Source], home: str | None) -> dict[str, float]:
    """One Gaussian a data set and change: one over all would be too wide to see small ones."""
    hues, tissue_hues = (
        (
            {name: [_present(map(of, [*s.clean, *s.restained]))] for name, s in sources.items()},
            {
                name: [_present(map(of, group)) for group in s.shifted]
                for name, s in sources.items()
            },
        )
        for of in (_hues, _tissue_hues)
    )
    return {
        **_compare("hues", "shifted", *hues, home=home),
        # Tissue alone tells less: what is even must not be called shifted.
        **_compare("tissue_hues", "shifted", *tissue_hues, least_log_odds=0.0, home=home),
    }


def _scale_values(sources: Mapping[str, Source], home: str | None) -> dict[str, float]:
    """Sizes of nuclei as they are, and at half and at twice the resolution."""
    usual = {name: [_present(map(_size, source.clean))] for name, source in sources.items()}
    half = {name: [_present(map(_size, source.half))] for name, source in sources.items()}
    double = {name: [_present(map(_size, source.double))] for name, source in sources.items()}
    return {
        **_compare("coarse", "changed", usual, half, false_alarms=SIZE_FALSE_ALARMS, home=home),
        **_compare("fine", "changed", usual, double),
    }


def _hues(figures: QualityFigures) -> NDArray[np.float64] | None:
    return figures.hues


def _tissue_hues(figures: QualityFigures) -> NDArray[np.float64] | None:
    return figures.tissue_hues


def _size(figures: QualityFigures) -> NDArray[np.float64] | None:
    """Sizes of six nuclei or more: four or five are judged, but too uncertain to learn from."""
    return None if figures.median_core_px is None else figures.size


def _present(rows: Iterable[NDArray[np.float64] | None]) -> _Rows:
    return [row for row in rows if row is not None]


def _compare(
    flag: str,
    changed_name: str,
    usual: Mapping[str, Sequence[_Rows]],
    changed: Mapping[str, Sequence[_Rows]],
    *,
    false_alarms: float = FALSE_ALARMS,
    least_log_odds: float = -math.inf,
    home: str | None = None,
) -> dict[str, float]:
    """Fit both sides, and put the threshold where few usual images pass it.

    Args:
        flag: Name of the comparison.
        changed_name: Name of its second side.
        usual: What the images of each data set measured.
        changed: What they measured once they were spoilt, one group for each way to do it.
        false_alarms: Share of the usual images that may pass the threshold.
        least_log_odds: Least threshold.
        home: The data set that matters most: it weighs `HOME_WEIGHT` in all, and its images alone
            set the threshold. Default none: all weigh the same.
    """
    between = _between(flag, usual)
    sides = [_fit(side, home, between) for side in (usual, changed)]
    if not all(sides):
        return {}
    comparison = Comparison(sides[0], sides[1], most_log_odds=0.0)
    # By data set, or the largest one would decide alone what is rare.
    highest = {
        name: np.quantile([comparison.log_odds(row) for row in rows], 1 - false_alarms)
        for name, (rows,) in usual.items()
        if len(rows) >= LEAST_ROWS
    }
    chosen = highest[home] if home in highest else np.median(list(highest.values()))
    values = {f"{flag}.most_log_odds": max(least_log_odds, float(chosen))}
    for name, parts in zip(("usual", changed_name), sides, strict=True):
        for number, part in enumerate(parts):
            values |= part.values(f"{flag}.{name}.{number}")
    return values


def _between(flag: str, usual: Mapping[str, Sequence[_Rows]]) -> NDArray[np.float64] | None:
    """Variance of the figures from one laboratory to the next, as far as data sets show it."""
    means = [np.mean(rows, axis=0) for (rows,) in usual.values() if len(rows) >= LEAST_ROWS]
    if flag not in _COUNTERSTAIN or len(means) < 2:
        return None
    variance = np.zeros(len(means[0]))
    of = _COUNTERSTAIN[flag]
    variance[of] = LABORATORIES**2 * np.var(means, axis=0, ddof=1)[of]
    return variance


def _fit(
    side: Mapping[str, Sequence[_Rows]],
    home: str | None,
    between: NDArray[np.float64] | None = None,
) -> tuple[Gaussian, ...]:
    """Fit a Gaussian to each group of enough rows; one that weighs more has a higher offset."""
    fitted = {
        name: [
            Gaussian.fit(np.array(rows), more_variance=between)
            for rows in groups
            if len(rows) >= LEAST_ROWS
        ]
        for name, groups in side.items()
    }
    fitted = {name: parts for name, parts in fitted.items() if parts}
    if home not in fitted or len(fitted) < 2:
        return tuple(part for parts in fitted.values() for part in parts)
    total = sum(map(len, fitted.values()))
    weighted = []
    for name, parts in fitted.items():
        share = HOME_WEIGHT if name == home else (1 - HOME_WEIGHT) / (len(fitted) - 1)
        more = math.log(share * total / len(parts))
        weighted += [replace(part, offset=part.offset + more) for part in parts]
    return tuple(weighted)


def _merged_values(clean: Sequence[QualityFigures]) -> dict[str, float]:
    shares = [figures.merged_share for figures in clean if figures.merged_share is not None]
    if len(shares) < LEAST_ROWS:
        return {}
    # Nothing was spoilt to show where it must fire: only what hardly any clean image reaches.
    most = float(np.quantile(shares, 1 - FALSE_ALARMS / 3))
    return {"merged.most_share": max(_LEAST_MERGED, most)}
