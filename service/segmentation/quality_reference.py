"""What a model's training images looked like: the statistics that quality flags compare with.

A model file carries them as `quality_reference`, plain numbers by name:

    blur.least_sharpness           blur.least_clear_sharpness
    blur.least_finest              blur.finest_mpp
    tissue.least_fraction          merged.most_share
    hues.most_log_odds             hues.usual.<k>.<part>       hues.shifted.<k>.<part>
    tissue_hues.most_log_odds      tissue_hues.usual.<k>.<part>
                                   tissue_hues.shifted.<k>.<part>
    coarse.most_log_odds           coarse.usual.<k>.<part>     coarse.changed.<k>.<part>
    fine.most_log_odds             fine.usual.<k>.<part>       fine.changed.<k>.<part>

Older files have instead, or lack, some of these and are judged by what they have:

    tints.most_log_odds            tints.usual.<k>.<part>      tints.shifted.<k>.<part>
    colour.most_log_odds           colour.usual.<k>.<part>     colour.shifted.<k>.<part>
    stain.most_log_odds            stain.usual.<k>.<part>      stain.shifted.<k>.<part>
    magnification.most_log_odds    magnification.usual.<k>.<part>
    magnification.median_core_px   magnification.coarse.<k>.<part>
    magnification.most_median_core_px

`<part>` is `offset`, `mean.<i>` or `factor.<i>.<j>` of one Gaussian. Several Gaussians stand side
by side, one for each data set and each change: a mean over scanners would describe none of them.
One that weighs more than the others says so by a higher offset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A multivariate normal distribution.

    Attributes:
        mean: Shape (D,).
        factor: Upper triangular R, shape (D, D), with R' R the inverse covariance.
        offset: Natural logarithm of the density at the mean.
    """

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]
    offset: float

    @classmethod
    def fit(
        cls,
        rows: NDArray[np.float64],
        shrinkage: float = 0.1,
        more_variance: NDArray[np.float64] | None = None,
    ) -> "Gaussian":
        """Fit to rows, shape (N, D), N > 1; covariances are shrunk towards 0.

        Args:
            rows: What was measured.
            shrinkage: Share of the covariances that is taken off.
            more_variance: What the rows do not show of each figure's variance, shape (D,).

        Raises:
            ValueError: Fewer than two rows.
        """
        if len(rows) < 2:
            raise ValueError(f"a Gaussian cannot be fitted to {len(rows)} row(s)")
        mean = rows.mean(axis=0)
        covariance = np.atleast_2d(np.cov(rows, rowvar=False)) * (1 - shrinkage)
        diagonal = np.diag(covariance) / (1 - shrinkage)
        more = 0.0 if more_variance is None else more_variance
        np.fill_diagonal(covariance, diagonal + 1e-5 + more)
        # Cholesky gives the lower L with L L' the inverse covariance; R is its transpose.
        factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
        offset = float(np.log(np.diag(factor)).sum() - len(mean) / 2 * np.log(2 * np.pi))
        return cls(mean, factor, offset)

    def log_density(self, row: NDArray[np.float64]) -> float:
        """Natural logarithm of the density at `row`, shape (D,)."""
        standard = self.factor @ (row - self.mean)
        return self.offset - 0.5 * float(standard @ standard)

    def values(self, name: str) -> dict[str, float]:
        """The numbers that go into a model file, under `name`."""
        size = len(self.mean)
        values = {f"{name}.offset": self.offset}
        values |= {f"{name}.mean.{i}": float(self.mean[i]) for i in range(size)}
        values |= {
            f"{name}.factor.{i}.{j}": float(self.factor[i, j])
            for i in range(size)
            for j in range(i, size)
        }
        return {key: float(f"{value:.6g}") for key, value in values.items()}

    @classmethod
    def from_values(cls, name: str, values: Mapping[str, float]) -> "Gaussian | None":
        """Read what `values` wrote; None where there is none of that name, or only a part."""
        size = 0
        while f"{name}.mean.{size}" in values:
            size += 1
        if not size or f"{name}.offset" not in values:
            return None
        factor = np.zeros((size, size))
        for i in range(size):
            for j in range(i, size):
                value = values.get(f"{name}.factor.{i}.{j}")
                if value is None:
                    return None
                factor[i, j] = value
        mean = np.array([values[f"{name}.mean.{i}"] for i in range(size)])
        return cls(mean, factor, values[f"{name}.offset"])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two explanations of a measurement, and from when on the second is believed.

    Attributes:
        usual: How training images measure.
        changed: How they measure once they have been changed on purpose.
        most_log_odds: The flag fires above these log-odds of the second.
    """

    usual: tuple[Gaussian, ...]
    changed: tuple[Gaussian, ...]
    most_log_odds: float

    def log_odds(self, row: NDArray[np.float64]) -> float:
        """Natural log-odds that `row` comes from a changed image, bounded to -50..50."""
        odds = _mixture(self.changed, row) - _mixture(self.usual, row)
        return float(np.clip(odds, -50.0, 50.0))


def _mixture(parts: Sequence[Gaussian], row: NDArray[np.float64]) -> float:
    densities = [part.log_density(row) for part in parts]
    return float(np.logaddexp.reduce(densities)) - float(np.log(len(parts)))


@dataclass(frozen=True, slots=True)
class QualityReference:
    """The reference of one model; None for what it does not state.

    Attributes:
        least_sharpness: Below it an image is blurred.
        least_tissue: Below this share of tissue an image is nearly empty.
        stain: Usual stains against shifted ones.
        magnification: The stated scale against half of it.
        median_core_px: Usual median area of the nuclei's cores.
        most_median_core_px: Above it the nuclei are magnified more than stated.
        most_merged_share: Above this share of odd outlines a count is in doubt.
        least_clear_sharpness: Below it an image is blurred, noise aside.
        colour: Usual colours of tissue against shifted ones, for images without nuclei.
        tints: Usual colours of nuclei and tissue against shifted ones; goes before `stain`.
        coarse: Nuclei of the usual size against those of half the resolution; goes before
            `magnification`.
        fine: Nuclei of the usual size against those of twice the resolution; likewise.
        hues: Usual colours of nuclei and tissue against shifted, swapped and inverted ones; goes
            before `tints`.
        tissue_hues: The same of tissue, for images without nuclei; goes before `colour`.
        least_finest: Below it an image was enlarged or blurred.
        finest_mpp: Resolution that this holds for: one that was resampled has less finest detail.
    """

    least_sharpness: float | None = None
    least_tissue: float | None = None
    stain: Comparison | None = None
    magnification: Comparison | None = None
    median_core_px: float | None = None
    most_median_core_px: float | None = None
    most_merged_share: float | None = None
    least_clear_sharpness: float | None = None
    colour: Comparison | None = None
    tints: Comparison | None = None
    coarse: Comparison | None = None
    fine: Comparison | None = None
    hues: Comparison | None = None
    tissue_hues: Comparison | None = None
    least_finest: float | None = None
    finest_mpp: float | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, float] | None) -> "QualityReference":
        """Read a model's `quality_reference`; names that are not known here are left alone."""
        values = values or {}
        return cls(
            least_sharpness=values.get("blur.least_sharpness"),
            least_tissue=values.get("tissue.least_fraction"),
            stain=_comparison("stain", "shifted", values),
            magnification=_comparison("magnification", "coarse", values),
            median_core_px=values.get("magnification.median_core_px"),
            most_median_core_px=values.get("magnification.most_median_core_px"),
            most_merged_share=values.get("merged.most_share"),
            least_clear_sharpness=values.get("blur.least_clear_sharpness"),
            colour=_comparison("colour", "shifted", values),
            tints=_comparison("tints", "shifted", values),
            coarse=_comparison("coarse", "changed", values),
            fine=_comparison("fine", "changed", values),
            hues=_comparison("hues", "shifted", values),
            tissue_hues=_comparison("tissue_hues", "shifted", values),
            least_finest=values.get("blur.least_finest"),
            finest_mpp=values.get("blur.finest_mpp"),
        )


def _comparison(flag: str, changed: str, values: Mapping[str, float]) -> Comparison | None:
    most = values.get(f"{flag}.most_log_odds")
    sides = []
    for side in ("usual", changed):
        parts: list[Gaussian] = []
        while (part := Gaussian.from_values(f"{flag}.{side}.{len(parts)}", values)) is not None:
            parts.append(part)
        sides.append(tuple(parts))
    if most is None or not all(sides):
        return None
    return Comparison(sides[0], sides[1], most)
